"""Task data as token ids: sequences padded on the right, what is to be predicted of them, and the
way back from predictions."""

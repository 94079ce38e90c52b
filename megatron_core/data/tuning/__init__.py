"""Labelled data of fine-tuning tasks: files in the field's formats, and their tokens."""

"""What training reads: documents cut into sequences, their order, what is masked of them."""

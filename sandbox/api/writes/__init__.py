"""What a write goes through: decoding, patches, apply, admission, deletion, and what follows from each."""

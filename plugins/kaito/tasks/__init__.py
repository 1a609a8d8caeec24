"""What operators and sensors share: whose a task is, its plan, its machines, and what it tells the author."""

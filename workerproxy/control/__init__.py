"""What the main process and the workers have between them: messages, the pipe, statistics memory, the limits board."""

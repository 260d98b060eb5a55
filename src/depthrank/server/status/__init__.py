"""What is going on now: figures of the last seconds, recent requests, what the processes use, what room is left."""

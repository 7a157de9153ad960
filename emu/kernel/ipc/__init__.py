"""What processes share by keys and names: System V shared memory, semaphores and messages;
POSIX message queues.
"""

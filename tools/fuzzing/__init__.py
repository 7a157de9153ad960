"""Fuzzing: files made wrong with intent, and judges that tell a bad answer from a good one."""

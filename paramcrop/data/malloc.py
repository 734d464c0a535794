"""How glibc's malloc is told to keep memory; other C libraries take no notice."""

# By itself it gives large arrays back at once, and the kernel zeroes each page again for the next video or step. By the
# environment of a new process: to a thread that is there already, ``mallopt`` comes too late.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_ARENA_MAX": "1"}

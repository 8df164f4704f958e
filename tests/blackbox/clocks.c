/* Goes in front of the C library's clock_gettime (LD_PRELOAD) and adds seconds to two clocks: to CLOCK_BOOTTIME, as if the machine had been
 * suspended for so long, and to CLOCK_REALTIME, as if somebody had set the wall clock. They are in the file that CLOCK_OFFSETS names, as two
 * numbers, which are read anew for each call. Without dlsym: that may allocate, and an allocator may ask for the time. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int failed = syscall(SYS_clock_gettime, clock, time);
    const char *path = getenv("CLOCK_OFFSETS");
    char text[64];
    if (failed || !path || (clock != CLOCK_BOOTTIME && clock != CLOCK_REALTIME))
        return failed;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? 0 : read(file, text, sizeof text - 1);
    if (file >= 0)
        close(file);
    text[length > 0 ? length : 0] = 0;
    char *rest;
    long boottime = strtol(text, &rest, 10), realtime = strtol(rest, NULL, 10);
    time->tv_sec += clock == CLOCK_BOOTTIME ? boottime : realtime;
    return 0;
}

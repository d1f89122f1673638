// A message of 64 bytes over a Unix socket pair and back, as fast as two processes can.
//
// pingpong CORE OTHER: the echo runs on CORE, this end on OTHER.  For each line on stdin, a number of round trips,
// it prints the seconds that they took; at the end of stdin it ends.
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BYTES = 64 };

static void pin(const char *core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(atoi(core), &set);
    if (sched_setaffinity(0, sizeof set, &set)) {
        perror("sched_setaffinity");
        exit(1);
    }
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    int ends[2];
    char message[BYTES] = {0};
    long rounds;

    if (argc != 3 || socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
        return 2;
    if (fork() == 0) {
        close(ends[0]);
        pin(argv[1]);
        while (recv(ends[1], message, BYTES, MSG_WAITALL) == BYTES)
            if (send(ends[1], message, BYTES, MSG_NOSIGNAL) != BYTES)
                break;
        _exit(0);
    }
    close(ends[1]);
    pin(argv[2]);
    while (scanf("%ld", &rounds) == 1) {
        double start = now();
        for (long n = 0; n < rounds; n++)
            if (send(ends[0], message, BYTES, MSG_NOSIGNAL) != BYTES ||
                recv(ends[0], message, BYTES, MSG_WAITALL) != BYTES)
                return 1;
        printf("%.9f\n", now() - start);
        fflush(stdout);
    }
    close(ends[0]);
    wait(NULL);
    return 0;
}

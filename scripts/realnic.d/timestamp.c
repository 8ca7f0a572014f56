/* Prints how fast this machine's time-stamp counter counts, in kHz. QEMU's emulated cores show their guests that counter. */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

struct moment {
    uint64_t ticks;
    int64_t ns;
};

static int64_t monotonic_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Both clocks at once: of many readings the one between whose counts the least time was lost to others. */
static struct moment moment(void)
{
    struct moment best = {0, 0};
    uint64_t least = UINT64_MAX;

    for (int reading = 0; reading < 1000; reading++) {
        uint64_t before = __rdtsc();
        int64_t ns = monotonic_ns();
        uint64_t lasted = __rdtsc() - before;

        if (lasted < least) {
            least = lasted;
            best = (struct moment){before + lasted / 2, ns};
        }
    }
    return best;
}

int main(void)
{
    struct timespec pause = {0, 200000000};
    struct moment start = moment();

    nanosleep(&pause, NULL);
    struct moment end = moment();
    printf("%.0f\n", (double)(end.ticks - start.ticks) * 1e6 / (double)(end.ns - start.ns));
    return 0;
}

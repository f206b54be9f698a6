/* Large pages under what is there already, where the kernel can put them there. */

#define _GNU_SOURCE
#include <stdint.h>
#include <sys/mman.h>

#define LARGE (2 << 20)

/* Whether memory from `begin` to `end` could be put into large pages, or has no room for one. */
int tinystories_large_pages(uintptr_t begin, uintptr_t end) {
    uintptr_t first = (begin + LARGE - 1) / LARGE * LARGE, last = end / LARGE * LARGE;
    if (first >= last) return 1;
#ifdef __linux__
    return madvise((void *)first, last - first, 25 /* MADV_COLLAPSE, since Linux 6.1 */) == 0;
#else
    return 0;
#endif
}

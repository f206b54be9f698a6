/* Large pages, where the kernel has them. */

#define _GNU_SOURCE
#include <stdint.h>
#include <sys/mman.h>

#define LARGE (2 << 20)

/* Whether memory from `begin` to `end` could be put into large pages, or has no room for one. What is `fresh` gets them
   when it is first written to. */
int tinystories_large_pages(uintptr_t begin, uintptr_t end, int fresh) {
    uintptr_t first = (begin + LARGE - 1) / LARGE * LARGE, last = end / LARGE * LARGE;
    if (first >= last) return 1;
#ifdef __linux__
    return madvise((void *)first, last - first, fresh ? 14 /* MADV_HUGEPAGE */ : 25 /* MADV_COLLAPSE, Linux 6.1 */) == 0;
#else
    (void)fresh;
    return 0;
#endif
}

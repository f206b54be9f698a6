/* Large pages, where the kernel supports them. */

#define _GNU_SOURCE
#include <stdint.h>
#include <sys/mman.h>

#define LARGE (2 << 20)

/* Returns whether the memory from `begin` to `end` was put into large pages, or is too small for one. `fresh` memory
   gets them at the first write. */
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

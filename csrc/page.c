/* page.c: the routing page's two copies; see page.h for the protocol. */
#include "page.h"

#include <errno.h>
#include <string.h>

#define ND_PAGE_TRIES 8
#define ROUTE_WORDS (sizeof(nd_route) * ND_VSHARDS / sizeof(uint64_t))

int nd_page_open(nd_shm *shm, nd_page **out)
{
    nd_page *page = calloc(1, sizeof *page);
    if (page == NULL)
        return -ENOMEM;
    page->mem = nd_shm_page(shm);
    nd_page_refresh(page);
    *out = page;
    return 0;
}

void nd_page_close(nd_page *page)
{
    free(page);
}

/* Each load is an acquire: the look at seq that follows them cannot be done before them. */
static void copy_out(nd_route *to, const nd_route *from)
{
    const uint64_t *src = (const uint64_t *)from;
    for (size_t i = 0; i < ROUTE_WORDS; i++) {
        uint64_t word = __atomic_load_n(&src[i], __ATOMIC_ACQUIRE);
        memcpy((uint8_t *)to + i * sizeof word, &word, sizeof word);
    }
}

int nd_page_refresh(nd_page *page)
{
    nd_route fresh[ND_VSHARDS];
    for (int i = 0; i < ND_PAGE_TRIES; i++) {
        /* Acquire: pairs with the writer's switch, so the copy it names is whole unless two were written since. */
        uint64_t version = __atomic_load_n(&page->mem->index, __ATOMIC_ACQUIRE);
        if (version == page->version)
            return 0;
        const uint64_t *seq = &page->mem->copy[version & 1].seq;
        if (__atomic_load_n(seq, __ATOMIC_ACQUIRE) != version)
            continue;
        copy_out(fresh, page->mem->copy[version & 1].routes);
        if (__atomic_load_n(seq, __ATOMIC_ACQUIRE) != version)
            continue;
        memcpy(page->routes, fresh, sizeof fresh);
        page->version = version;
        return 1;
    }
    return -EAGAIN;
}

uint64_t nd_page_version(const nd_page *page)
{
    return page->version;
}

const nd_route *nd_page_routes(const nd_page *page)
{
    return page->routes;
}

uint64_t nd_page_write(nd_shm *shm, const nd_route *routes)
{
    nd_page_mem *mem = nd_shm_page(shm);
    uint64_t version = __atomic_load_n(&mem->index, __ATOMIC_RELAXED) + 1;
    uint64_t *seq = &mem->copy[version & 1].seq;
    uint64_t *to = (uint64_t *)mem->copy[version & 1].routes;
    uint64_t word;
    __atomic_store_n(seq, 0, __ATOMIC_RELAXED);
    for (size_t i = 0; i < ROUTE_WORDS; i++) {
        memcpy(&word, (const uint8_t *)routes + i * sizeof word, sizeof word);
        /* Release: a reader that sees this word also sees that seq was taken away. */
        __atomic_store_n(&to[i], word, __ATOMIC_RELEASE);
    }
    /* Release: the version appears after all of its rows. */
    __atomic_store_n(seq, version, __ATOMIC_RELEASE);
    /* Release: the switch; everything above is visible to who follows it. */
    __atomic_store_n(&mem->index, version, __ATOMIC_RELEASE);
    return version;
}

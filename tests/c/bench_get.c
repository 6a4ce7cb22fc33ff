/* bench_get.c: GETs of one connection through the front end, for counting instructions; not a test.
 *
 *   bench_get LOOPS WHO DEPTH     WHO 0: nothing is checked, 1: a user who may do everything, 2: one of "~key* +@all"
 *
 * Two runs with different LOOPS under `valgrind --tool=callgrind`: the difference of the instructions, by the difference of
 * loops times DEPTH, is what one GET costs without the start. Workers and clients are those of test_forward.c.
 */
#define main main_of_the_test
#include "test_forward.c"
#undef main

#include "access.h"

#define DEPTH_MAX 64
#define GET_REPLY_BYTES 9          /* $3, abc */

static nd_acl_user *user_of(uint8_t selector_flags)
{
    uint8_t form[256] = {ND_ACL_ENABLED | ND_ACL_NOPASS, 1, 0, 'u', 1, 0, selector_flags};
    size_t n = 7 + 128;
    if (!(selector_flags & ND_ACL_ALL_KEYS)) {
        memcpy(form + n, (uint8_t[]){1, 0, 0, 0, ND_ACL_READ | ND_ACL_WRITE, 4, 0, 0, 0, 'k', 'e', 'y', '*'}, 13);
        n += 13;
    } else {
        n += 4;
    }
    nd_acl_user *u = nd_acl_user_new(form, n + 4);
    ND_ASSERT(u);
    return u;
}

static void ask(worker *w, const client *c, const char *request, size_t n, size_t reply)
{
    char in[DEPTH_MAX * 16];
    size_t got = 0;
    ND_ASSERT(write(c->fd, request, n) == (ssize_t)n);
    while (got < reply) {
        turn(w, 0);
        ssize_t more = read(c->fd, in, sizeof in);
        got += more > 0 ? (size_t)more : 0;
    }
    ND_ASSERT(got == reply);
}

/* The GETs of `depth` keys that live in worker 0, after setting each. */
static size_t prepare(worker *w, const client *c, int depth, char *gets, size_t room)
{
    size_t n = 0;
    for (int i = 0, k = 0; k < depth; i++) {
        char key[16], set[96];
        nd_arg arg = {(uint8_t *)key, (uint32_t)snprintf(key, sizeof key, "key:%06d", i)};
        if (nd_vshard_of_key(&arg) >= 512)
            continue;
        k++;
        int len = snprintf(set, sizeof set, "*3\r\n$3\r\nSET\r\n$10\r\n%s\r\n$3\r\nabc\r\n", key);
        ask(w, c, set, (size_t)len, 5);
        n += (size_t)snprintf(gets + n, room - n, "*2\r\n$3\r\nGET\r\n$10\r\n%s\r\n", key);
    }
    return n;
}

int main(int argc, char **argv)
{
    ND_ASSERT(argc == 4);
    int loops = atoi(argv[1]), who = atoi(argv[2]), depth = atoi(argv[3]);
    ND_ASSERT(depth > 0 && depth <= DEPTH_MAX);
    worker ws[WORKERS];
    char gets[DEPTH_MAX * 40];
    start_both(ws);
    nd_acl_user *u = user_of(who == 1 ? ND_ACL_ALL_COMMANDS | ND_ACL_ALL_KEYS : ND_ACL_ALL_COMMANDS);
    if (who)
        nd_engine_default_user(ws[0].engine, u);
    client c = connect_to(&ws[0]);
    size_t n = prepare(&ws[0], &c, depth, gets, sizeof gets);
    for (int i = 0; i < loops; i++)
        ask(&ws[0], &c, gets, n, GET_REPLY_BYTES * (size_t)depth);
    client_end(&c);
    end_both(ws);
    nd_acl_user_free(u);
    (void)main_of_the_test;
    return 0;
}

/* fuzz_main.c: drives a libFuzzer harness (LLVMFuzzerTestOneInput) with its own mutations: a bounded, seeded smoke run where
 * only gcc is at hand. With clang, link the harness with -fsanitize=fuzzer instead and leave this file out.
 *
 *   fuzz_NAME [-seed N] [-runs N] [-seconds N] [-max_len N] [FILE or DIR...]     the files are where mutation starts
 *   fuzz_NAME -runs 0 FILE...                                                    only runs the files: replays a finding
 *
 * A finding is written to ./crash-NAME before the process dies. Same seed, same files, same runs: same inputs.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

#define SEEDS_MAX 4096

static struct { uint8_t *data; size_t len; } seeds[SEEDS_MAX];
static size_t seeds_len;
static uint64_t state;
static uint8_t *input;
static size_t input_len;
static const char *name;

static uint64_t next(void)
{
    state += 0x9e3779b97f4a7c15ull;                      /* splitmix64 */
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static size_t below(size_t n) { return n == 0 ? 0 : (size_t)(next() % n); }

static void keep_finding(void)
{
    char path[256];
    snprintf(path, sizeof path, "crash-%s", name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd >= 0 && write(fd, input, input_len) == (ssize_t)input_len)
        fprintf(stderr, "\nfuzz: the input is in %s (%zu bytes)\n", path, input_len);
}

static void on_abort(int number)
{
    keep_finding();
    signal(number, SIG_DFL);
    raise(number);
}

static void add_seed(const uint8_t *data, size_t len)
{
    if (seeds_len == SEEDS_MAX)
        return;
    uint8_t *copy = malloc(len + 1);
    memcpy(copy, data, len);
    seeds[seeds_len].data = copy;
    seeds[seeds_len++].len = len;
}

static void add_path(const char *path, size_t max_len)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        fprintf(stderr, "fuzz: %s: %s\n", path, strerror(errno));
        exit(2);
    }
    if (S_ISDIR(st.st_mode)) {
        struct dirent **entries;
        int n = scandir(path, &entries, NULL, alphasort);   /* sorted: the same order everywhere */
        for (int i = 0; i < n; i++) {
            char below_it[1024];
            snprintf(below_it, sizeof below_it, "%s/%s", path, entries[i]->d_name);
            if (entries[i]->d_name[0] != '.')
                add_path(below_it, max_len);
            free(entries[i]);
        }
        free(entries);
        return;
    }
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(max_len);
    size_t len = file ? fread(data, 1, max_len, file) : 0;
    add_seed(data, len);
    free(data);
    if (file)
        fclose(file);
}

/* One change of input[0..input_len), kept within max_len. */
static void mutate(size_t max_len)
{
    static const uint8_t odd[] = {0, 1, 0x7f, 0x80, 0xff, '\r', '\n', '*', '$', '-', '0', '9', ' '};
    size_t at = below(input_len + 1), n = 1 + below(below(4) ? 8 : 64);
    const size_t left = input_len - at;
    switch (below(9)) {
    case 0: if (left) input[at] ^= (uint8_t)(1u << below(8)); break;
    case 1: if (left) input[at] = (uint8_t)next(); break;
    case 2: if (left) input[at] = odd[below(sizeof odd)]; break;
    case 3: if (left) input[at] = (uint8_t)(input[at] + (below(2) ? 1 : 255)); break;
    case 4: input_len = at; break;                                                       /* cut off */
    case 5:                                                                              /* take out */
        n = n < left ? n : left;
        memmove(input + at, input + at + n, left - n);
        input_len -= n;
        break;
    case 6: case 7: {                                                                    /* insert: own or odd bytes */
        n = n < max_len - input_len ? n : max_len - input_len;
        memmove(input + at + n, input + at, left);
        input_len += n;
        const size_t from = below(input_len - n + 1);
        for (size_t i = 0; i < n; i++)
            input[at + i] = below(2) ? input[from + i] : odd[below(sizeof odd)];
        break;
    }
    default: {                                                                           /* go on as another seed does */
        const size_t other = below(seeds_len), from = below(seeds[other].len + 1);
        n = seeds[other].len - from;
        n = n < max_len - at ? n : max_len - at;
        memcpy(input + at, seeds[other].data + from, n);
        input_len = at + n;
    }
    }
}

static void run_one(void)
{
    uint8_t *exact = malloc(input_len ? input_len : 1);      /* a byte too far is the sanitizer's, not ours */
    memcpy(exact, input, input_len);
    LLVMFuzzerTestOneInput(exact, input_len);
    free(exact);
}

static void load(size_t seed)
{
    input_len = seeds[seed].len;
    memcpy(input, seeds[seed].data, input_len);
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, runs = 20000, seconds = 10, max_len = 4096, done = 0;
    name = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
    int i = 1;
    for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
        const uint64_t value = strtoull(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "-seed") == 0) seed = value;
        else if (strcmp(argv[i], "-runs") == 0) runs = value;
        else if (strcmp(argv[i], "-seconds") == 0) seconds = value;
        else if (strcmp(argv[i], "-max_len") == 0) max_len = value;
        else return fprintf(stderr, "fuzz: unknown option %s\n", argv[i]), 2;
    }
    input = malloc(max_len);
    state = seed;
    for (; i < argc; i++)
        add_path(argv[i], max_len);
    add_seed((const uint8_t *)"", 0);
    if (LLVMFuzzerInitialize)
        LLVMFuzzerInitialize(&argc, &argv);
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(keep_finding);
    signal(SIGABRT, on_abort);
    for (size_t s = 0; s < seeds_len; s++) {
        load(s);
        run_one();
    }
    const time_t end = time(NULL) + (time_t)seconds;
    for (; done < runs && time(NULL) < end; done++) {
        load(below(seeds_len));
        for (size_t changes = 1 + below(8); changes > 0; changes--)
            mutate(max_len);
        run_one();
    }
    printf("%s: %zu seeds, %lu runs, -seed %lu\n", name, seeds_len, (unsigned long)done, (unsigned long)seed);
    return 0;
}

/* test_client_tls.c: TLS under the front end: pieces of any size in order, goodbyes, stalled and broken handshakes, a new
 * certificate while connections are open. Workers are those of test_forward.c; client and worker take turns in one thread.
 */
#define main main_of_the_test
#include "test_forward.c"
#undef main

#include <errno.h>
#include <signal.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#include "tls.h"

#define TURNS_MAX 200000
#define HANDSHAKE_MS 1000
#define HANDSHAKES_MAX 3

static char pem_dir[64], cert_path[96], key_path[96], list_path[96];
static int tls_port;

/* ---- certificates ---- */

static void write_pem(const char *name)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    ND_ASSERT(key && cert && X509_set_version(cert, 2) && X509_set_pubkey(cert, key));
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), -60);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC, (const uint8_t *)name, -1, -1, 0);
    X509_set_issuer_name(cert, X509_get_subject_name(cert));
    ND_ASSERT(X509_sign(cert, key, EVP_sha256()) > 0);
    FILE *file = fopen(key_path, "w");
    ND_ASSERT(file && PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL) == 1 && fclose(file) == 0);
    file = fopen(cert_path, "w");
    ND_ASSERT(file && PEM_write_X509(file, cert) == 1 && fclose(file) == 0);
    X509_free(cert);
    EVP_PKEY_free(key);
}

/* The list of the certificate's own authority, which is itself. */
static void write_list(bool revoked)
{
    FILE *file = fopen(key_path, "r");
    EVP_PKEY *key = PEM_read_PrivateKey(file, NULL, NULL, NULL);
    fclose(file);
    file = fopen(cert_path, "r");
    X509 *cert = PEM_read_X509(file, NULL, NULL, NULL);
    fclose(file);
    X509_CRL *list = X509_CRL_new();
    ASN1_TIME *began = X509_gmtime_adj(NULL, -60), *ends = X509_gmtime_adj(NULL, 3600);
    ND_ASSERT(key && cert && list && X509_CRL_set_version(list, 1));
    ND_ASSERT(X509_CRL_set_issuer_name(list, X509_get_subject_name(cert)));
    ND_ASSERT(X509_CRL_set1_lastUpdate(list, began) && X509_CRL_set1_nextUpdate(list, ends));
    if (revoked) {
        X509_REVOKED *entry = X509_REVOKED_new();
        ND_ASSERT(X509_REVOKED_set_serialNumber(entry, X509_get_serialNumber(cert)));
        ND_ASSERT(X509_REVOKED_set_revocationDate(entry, began) && X509_CRL_add0_revoked(list, entry));
    }
    ND_ASSERT(X509_CRL_sign(list, key, EVP_sha256()) > 0);
    file = fopen(list_path, "w");
    ND_ASSERT(PEM_write_X509_CRL(file, list) == 1 && fclose(file) == 0);
    ASN1_TIME_free(began), ASN1_TIME_free(ends);
    X509_CRL_free(list);
    X509_free(cert);
    EVP_PKEY_free(key);
}

static uint32_t show_list(worker *w, bool revoked)
{
    char error[ND_TLS_ERROR_BYTES];
    write_list(revoked);
    nd_tls *t = nd_tls_new(cert_path, key_path, cert_path, list_path, ND_TLS_CLIENTS_OPTIONAL, error);
    ND_ASSERT(t && nd_tls_lists_end(t) > time(NULL));
    uint32_t ended = nd_engine_tls(w->engine, t, HANDSHAKE_MS, HANDSHAKES_MAX);
    nd_tls_free(t);
    return ended;
}

static void show(worker *w, const char *name)
{
    char error[ND_TLS_ERROR_BYTES];
    write_pem(name);
    nd_tls *t = nd_tls_new(cert_path, key_path, "", "", ND_TLS_CLIENTS_NO, error);
    ND_ASSERT(t && nd_tls_not_after(t) > 0);
    nd_engine_tls(w->engine, t, HANDSHAKE_MS, HANDSHAKES_MAX);
    nd_tls_free(t);
}

/* ---- a client ---- */

typedef struct tls_client {
    int fd;
    SSL_CTX *ctx;
    SSL *ssl;
} tls_client;

static int connect_plain(void)
{
    worker at = {.port = tls_port};
    client c = connect_to(&at);
    free(c.out);
    return c.fd;
}

static tls_client dial(void)
{
    tls_client c = {.fd = connect_plain(), .ctx = SSL_CTX_new(TLS_client_method())};
    c.ssl = SSL_new(c.ctx);
    ND_ASSERT(SSL_set_fd(c.ssl, c.fd) == 1);
    SSL_set_connect_state(c.ssl);
    return c;
}

/* It shows the server's own certificate. */
static tls_client dial_certified(void)
{
    tls_client c = dial();
    ND_ASSERT(SSL_use_certificate_file(c.ssl, cert_path, SSL_FILETYPE_PEM) == 1);
    ND_ASSERT(SSL_use_PrivateKey_file(c.ssl, key_path, SSL_FILETYPE_PEM) == 1);
    return c;
}

static void hang_up(tls_client *c)
{
    SSL_free(c->ssl);
    SSL_CTX_free(c->ctx);
    close(c->fd);
}

static void shake(worker *w, tls_client *c)
{
    for (int i = 0; i < TURNS_MAX; i++) {
        if (SSL_do_handshake(c->ssl) == 1)
            return;
        turn(w, 0);
    }
    ND_ASSERT(!"the handshake ends");
}

/* Sends in pieces of random sizes and reads as it goes, or only afterwards; the reply's bytes. */
static void talk(worker *w, tls_client *c, const uint8_t *out, size_t n, uint8_t *in, size_t want, bool late)
{
    size_t sent = 0, got = 0;
    for (int i = 0; i < TURNS_MAX && got < want; i++) {
        size_t piece = (size_t)(rand() % 4 ? 1 + rand() % 40000 : 1 + rand() % 9);
        int rc = sent < n ? SSL_write(c->ssl, out + sent, (int)(n - sent < piece ? n - sent : piece)) : 0;
        sent += rc > 0 ? (size_t)rc : 0;
        turn(w, 0);
        if (!late || sent == n || i % 64 == 0)
            rc = SSL_read(c->ssl, in + got, (int)(want - got));
        got += rc > 0 && (!late || sent == n || i % 64 == 0) ? (size_t)rc : 0;
    }
    ND_ASSERT(sent == n && got == want);
}

static bool ended(worker *w, int fd)
{
    uint8_t byte[512];
    for (int i = 0; i < TURNS_MAX; i++) {
        turn(w, 0);
        ssize_t n = recv(fd, byte, sizeof byte, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            return true;
    }
    return false;
}

static size_t command(uint8_t *to, const char *name, const char *key, const uint8_t *value, size_t n)
{
    int len = sprintf((char *)to, "*%d\r\n$%zu\r\n%s\r\n$%zu\r\n%s\r\n", value ? 3 : 2, strlen(name), name, strlen(key), key);
    if (!value)
        return (size_t)len;
    len += sprintf((char *)to + len, "$%zu\r\n", n);
    memcpy(to + len, value, n);
    memcpy(to + len + n, "\r\n", 2);
    return (size_t)len + n + 2;
}

/* ---- tests ---- */

static void pieces_arrive_in_order(worker *w, bool late)
{
    enum { VALUES = 12, BYTES = 300000 };
    uint8_t *out = malloc(VALUES * (BYTES + 200)), *in = malloc(VALUES * (BYTES + 200)), *value = malloc(BYTES);
    uint8_t *expected = malloc(VALUES * (BYTES + 200));
    size_t n = 0, want = 0;
    ND_ASSERT(out && in && value && expected);
    for (int i = 0; i < VALUES; i++) {
        size_t bytes = (size_t)(rand() % BYTES);
        char key[64];
        for (size_t k = 0; k < bytes; k++)
            value[k] = (uint8_t)rand();
        snprintf(key, sizeof key, "%s", key_of(0, i));
        n += command(out + n, "SET", key, value, bytes);
        n += command(out + n, "GET", key, NULL, 0);
        want += (size_t)sprintf((char *)expected + want, "+OK\r\n$%zu\r\n", bytes);
        memcpy(expected + want, value, bytes);
        memcpy(expected + want + bytes, "\r\n", 2);
        want += bytes + 2;
    }
    tls_client c = dial();
    shake(w, &c);
    talk(w, &c, out, n, in, want, late);
    ND_ASSERT(memcmp(in, expected, want) == 0);
    SSL_shutdown(c.ssl);
    ND_ASSERT(ended(w, c.fd));
    hang_up(&c);
    free(out), free(in), free(value), free(expected);
}

static void handshakes_are_bounded(worker *w)
{
    int stalled[HANDSHAKES_MAX + 1];
    for (int i = 0; i <= HANDSHAKES_MAX; i++)
        stalled[i] = connect_plain();
    ND_ASSERT(ended(w, stalled[HANDSHAKES_MAX]));
    now_us += HANDSHAKE_MS * 1000;
    nd_engine_expire(w->engine, now_us);
    for (int i = 0; i < HANDSHAKES_MAX; i++)
        ND_ASSERT(ended(w, stalled[i]));
    for (int i = 0; i <= HANDSHAKES_MAX; i++)
        close(stalled[i]);
}

static void noise_is_closed(worker *w)
{
    static const char *const said[] = {"PING\r\n", "GET / HTTP/1.1\r\n\r\n", "*1\r\n$4\r\nPING\r\n"};
    for (int i = 0; i < 3; i++) {
        int fd = connect_plain();
        ND_ASSERT(write(fd, said[i], strlen(said[i])) > 0);
        ND_ASSERT(ended(w, fd));
        close(fd);
    }
    for (int i = 0; i < 40; i++) { /* a client that vanishes in its handshake, or right behind it */
        tls_client c = dial();
        for (int k = 0; k < i % 5 && SSL_do_handshake(c.ssl) != 1; k++)
            turn(w, 0);
        if (i % 2)
            SSL_write(c.ssl, "PING\r\nPING\r\n", 12);
        hang_up(&c);
        for (int k = 0; k < 4; k++)
            turn(w, 0);
    }
}

static void a_new_certificate_cuts_nobody_off(worker *w)
{
    uint8_t in[16];
    char name[64];
    const uint8_t *ask = (const uint8_t *)"*2\r\n$3\r\nGET\r\n$6\r\nnosuch\r\n";
    tls_client before = dial();
    shake(w, &before);
    show(w, "second");
    tls_client after = dial();
    shake(w, &after);
    X509 *cert = SSL_get1_peer_certificate(after.ssl);
    X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, name, sizeof name);
    ND_ASSERT(strcmp(name, "second") == 0);
    X509_free(cert);
    uint32_t vshard = nd_vshard_of_key(&(nd_arg){(const uint8_t *)"nosuch", 6});
    if (vshard < 512) {
        talk(w, &before, ask, 25, in, 5, false);
        talk(w, &after, ask, 25, in, 5, false);
    }
    char error[ND_TLS_ERROR_BYTES];
    ND_ASSERT(nd_tls_new(key_path, key_path, "", "", ND_TLS_CLIENTS_NO, error) == NULL && strstr(error, key_path));
    ND_ASSERT(nd_tls_new(cert_path, cert_path, "", "", ND_TLS_CLIENTS_NO, error) == NULL);
    ND_ASSERT(nd_tls_new(cert_path, key_path, "/nosuch", "", ND_TLS_CLIENTS_YES, error) == NULL);
    hang_up(&before);
    hang_up(&after);
}

static void who_is_revoked_is_cut_off(worker *w)
{
    char error[ND_TLS_ERROR_BYTES];
    ND_ASSERT(show_list(w, false) == 0);
    tls_client certified = dial_certified(), none = dial(), begun = dial_certified();
    shake(w, &certified);
    shake(w, &none);
    SSL_do_handshake(begun.ssl);
    turn(w, 0);
    ND_ASSERT(show_list(w, true) == 1);
    ND_ASSERT(ended(w, certified.fd));
    nd_event told = {0};
    while (nd_engine_event_next(w->engine, &told)) /* what other tests left */
        ;
    for (int i = 0; i < TURNS_MAX && !nd_engine_event_next(w->engine, &told); i++) {
        SSL_do_handshake(begun.ssl); /* began by the list before, ends by the new one */
        turn(w, 0);
    }
    ND_ASSERT(told.kind == ND_EVENT_TLS && strcmp(told.text, "certificate revoked") == 0 && ended(w, begun.fd));
    ND_ASSERT(nd_tls_new(cert_path, key_path, cert_path, cert_path, ND_TLS_CLIENTS_YES, error) == NULL);
    ND_ASSERT(strstr(error, "no revocation list"));
    ND_ASSERT(nd_tls_new(cert_path, key_path, cert_path, "/nosuch", ND_TLS_CLIENTS_YES, error) == NULL);
    hang_up(&certified);
    hang_up(&none);
    hang_up(&begun);
    unlink(list_path);
    show(w, "third");
}

int main(void)
{
    worker ws[WORKERS];
    unsigned seed = (unsigned)time(NULL);
    printf("seed %u\n", seed);
    srand(seed);
    signal(SIGPIPE, SIG_IGN);
    strcpy(pem_dir, "/tmp/test_client_tls.XXXXXX");
    ND_ASSERT(mkdtemp(pem_dir) != NULL);
    snprintf(cert_path, sizeof cert_path, "%s/cert.pem", pem_dir);
    snprintf(key_path, sizeof key_path, "%s/key.pem", pem_dir);
    snprintf(list_path, sizeof list_path, "%s/list.pem", pem_dir);
    start_both(ws);
    show(&ws[0], "first");
    ND_ASSERT(nd_engine_listen(ws[0].engine, listen_on(&tls_port), ND_PORT_SHARED | ND_LISTEN_TLS) == 0);
    pieces_arrive_in_order(&ws[0], false);
    pieces_arrive_in_order(&ws[0], true);
    handshakes_are_bounded(&ws[0]);
    noise_is_closed(&ws[0]);
    a_new_certificate_cuts_nobody_off(&ws[0]);
    who_is_revoked_is_cut_off(&ws[0]);
    pieces_arrive_in_order(&ws[0], false);
    end_both(ws);
    unlink(cert_path), unlink(key_path), rmdir(pem_dir);
    (void)main_of_the_test;
    return 0;
}

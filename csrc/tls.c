/* tls.c: see tls.h. */
#include "tls.h"

#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "engine_int.h"

#define DISCARD_BYTES 4096

struct nd_tls {
    SSL_CTX *ctx;
    STACK_OF(X509_CRL) *lists;
    int64_t not_after, lists_end;
};

/* ---- what a server shows ---- */

static const char *reason(void)
{
    unsigned long code = ERR_peek_last_error();
    const char *text = code ? ERR_reason_error_string(code) : NULL;
    return text ? text : "unknown";
}

static int no_passphrase(char *to, int size, int writing, void *user)
{
    (void)to, (void)size, (void)writing, (void)user;
    return -1; /* never ask a terminal */
}

static int64_t seconds(const ASN1_TIME *at)
{
    struct tm tm = {0};
    return at && ASN1_TIME_to_tm(at, &tm) ? (int64_t)timegm(&tm) : 0;
}

static int64_t end_of(SSL_CTX *ctx)
{
    X509 *cert = SSL_CTX_get0_certificate(ctx);
    return cert ? seconds(X509_get0_notAfter(cert)) : 0;
}

static void set_rules(SSL_CTX *ctx)
{
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
}

static bool take_ca(SSL_CTX *ctx, const char *ca, uint32_t clients)
{
    if (clients == ND_TLS_CLIENTS_NO)
        return true;
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(ca);
    if (!names || SSL_CTX_load_verify_locations(ctx, ca, NULL) != 1) {
        sk_X509_NAME_pop_free(names, X509_NAME_free);
        return false;
    }
    SSL_CTX_set_client_CA_list(ctx, names);
    int must = clients == ND_TLS_CLIENTS_YES ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0;
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | must, NULL);
    return true;
}

/* ---- revocation lists ---- */

static X509_CRL *list_of(STACK_OF(X509_CRL) *lists, const X509_NAME *issuer)
{
    for (int i = 0; i < sk_X509_CRL_num(lists); i++)
        if (X509_NAME_cmp(X509_CRL_get_issuer(sk_X509_CRL_value(lists, i)), issuer) == 0)
            return sk_X509_CRL_value(lists, i);
    return NULL;
}

/* All lists of the file into the store and onto the stack; what is wrong, or NULL. */
static const char *take_lists(SSL_CTX *ctx, const char *crl, STACK_OF(X509_CRL) *lists)
{
    X509_STORE *store = SSL_CTX_get_cert_store(ctx);
    BIO *file = BIO_new_file(crl, "r");
    X509_CRL *list = NULL;
    while (file && (list = PEM_read_bio_X509_CRL(file, NULL, NULL, NULL)))
        ND_ASSERT(X509_STORE_add_crl(store, list) == 1 && sk_X509_CRL_push(lists, list) > 0);
    bool whole = file && ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE; /* nothing more, and nothing broken */
    BIO_free(file);
    if (!whole)
        return reason();
    STACK_OF(X509_NAME) *names = SSL_CTX_get_client_CA_list(ctx);
    for (int i = 0; i < sk_X509_NAME_num(names); i++)
        if (!list_of(lists, sk_X509_NAME_value(names, i)))
            return "an authority of tls_ca has no revocation list here";
    ERR_clear_error();
    X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
    return NULL;
}

static int64_t first_end(STACK_OF(X509_CRL) *lists)
{
    int64_t first = 0;
    for (int i = 0; i < sk_X509_CRL_num(lists); i++) {
        int64_t end = seconds(X509_CRL_get0_nextUpdate(sk_X509_CRL_value(lists, i)));
        first = end && (!first || end < first) ? end : first;
    }
    return first;
}

static bool is_revoked(const nd_tls *t, SSL *ssl)
{
    X509_REVOKED *entry;
    X509 *cert = SSL_get0_peer_certificate(ssl);
    X509_CRL *list = cert ? list_of(t->lists, X509_get_issuer_name(cert)) : NULL;
    return list && X509_CRL_get0_by_cert(list, &entry, cert) == 1;
}

/* Open connections by the lists that are new; handshakes that go on end by them. */
static uint32_t end_revoked(nd_engine *e, const nd_tls *t)
{
    uint32_t ended = 0;
    for (uint32_t i = 0; sk_X509_CRL_num(t->lists) > 0 && i < e->cfg.connections_max; i++) {
        conn *c = e->conns[i];
        if (!c || !c->ssl || c->closing)
            continue;
        if (c->shaking) {
            ND_ASSERT(SSL_set1_verify_cert_store(c->ssl, SSL_CTX_get_cert_store(t->ctx)) == 1);
        } else if (is_revoked(t, c->ssl)) {
            ended++;
            c->closing = true;
            c->in.len = 0;
            conn_dirty(e, c);
        }
    }
    return ended;
}

/* ---- what an engine shows ---- */

nd_tls *nd_tls_new(const char *cert, const char *key, const char *ca, const char *crl, uint32_t clients, char *error)
{
    ERR_clear_error();
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    ND_ASSERT(ctx);
    set_rules(ctx);
    STACK_OF(X509_CRL) *lists = sk_X509_CRL_new_null();
    const char *file = NULL, *why = NULL;
    if (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1)
        file = cert;
    else if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(ctx) != 1)
        file = key;
    else if (!take_ca(ctx, ca, clients))
        file = ca;
    else if (clients != ND_TLS_CLIENTS_NO && *crl && (why = take_lists(ctx, crl, lists)))
        file = crl;
    if (file) {
        snprintf(error, ND_TLS_ERROR_BYTES, "%s: %s", file, why ? why : reason());
        sk_X509_CRL_pop_free(lists, X509_CRL_free);
        SSL_CTX_free(ctx);
        ERR_clear_error();
        return NULL;
    }
    nd_tls *t = malloc(sizeof *t);
    ND_ASSERT(t);
    *t = (nd_tls){ctx, lists, end_of(ctx), first_end(lists)};
    return t;
}

void nd_tls_free(nd_tls *t)
{
    sk_X509_CRL_pop_free(t->lists, X509_CRL_free);
    SSL_CTX_free(t->ctx);
    free(t);
}

int64_t nd_tls_not_after(const nd_tls *t) { return t->not_after; }

int64_t nd_tls_lists_end(const nd_tls *t) { return t->lists_end; }

uint32_t nd_engine_tls(nd_engine *e, nd_tls *t, uint32_t handshake_ms, uint32_t handshakes_max)
{
    SSL_CTX_up_ref(t->ctx);
    SSL_CTX_free(e->tls.ctx);
    e->tls.ctx = t->ctx;
    e->tls.handshake_ms = handshake_ms;
    e->tls.handshakes_max = handshakes_max;
    return end_revoked(e, t);
}

void nd_engine_advertise_tls(nd_engine *e, uint32_t worker, uint32_t port)
{
    ND_ASSERT(worker < e->cfg.workers);
    e->tls.ports[worker] = port;
}

void tls_free(nd_engine *e)
{
    SSL_CTX_free(e->tls.ctx);
    e->tls.ctx = NULL;
}

/* ---- handshakes ---- */

bool tls_has_room(nd_engine *e)
{
    bool room = e->tls.ctx && e->tls.open < e->tls.handshakes_max;
    e->m->tls_refusals += !room;
    return room;
}

void tls_begin(nd_engine *e, conn *c)
{
    c->ssl = SSL_new(e->tls.ctx);
    ND_ASSERT(c->ssl && SSL_set_fd(c->ssl, c->fd) == 1);
    SSL_set_accept_state(c->ssl);
    c->shaking = true;
    e->tls.open++;
}

void tls_end(nd_engine *e, conn *c)
{
    if (c->shaking)
        e->tls.open--;
    else if (!c->broken)
        SSL_shutdown(c->ssl); /* best effort: what does not fit into the socket now is not said */
    ERR_clear_error();
    SSL_free(c->ssl);
    c->ssl = NULL;
}

/* Of a client's certificate; otherwise of TLS. */
static const char *shake_reason(const conn *c)
{
    long verdict = SSL_get_verify_result(c->ssl);
    return verdict == X509_V_OK ? reason() : X509_verify_cert_error_string(verdict);
}

static int shake_failed(nd_engine *e, conn *c)
{
    uint8_t sink[DISCARD_BYTES];
    int code = ERR_GET_REASON(ERR_peek_error());
    bool plain = code == SSL_R_WRONG_VERSION_NUMBER || code == SSL_R_HTTP_REQUEST || code == SSL_R_HTTPS_PROXY_REQUEST;
    e->m->tls_handshake_failures++;
    if (ERR_peek_error()) /* a client that just left is no news */
        nd_engine_note(e, ND_EVENT_TLS, c->idx, 0, plain ? "plain text on a TLS port" : shake_reason(c));
    ERR_clear_error();
    while (recv(c->fd, sink, sizeof sink, MSG_DONTWAIT) > 0) /* a close with unread bytes would be a reset */
        if (++code > 64)
            break;
    return -1;
}

int tls_shake(nd_engine *e, conn *c)
{
    if (e->tls.left == 0)
        return 0; /* level-triggered: told again in the next turn */
    e->tls.left--;
    ERR_clear_error();
    int rc = SSL_do_handshake(c->ssl);
    if (rc == 1) {
        c->shaking = false;
        e->tls.open--;
        e->m->tls_handshakes++;
        if (c->watch_out)
            c->watch_out = false, conn_watch(e, c);
        return 1;
    }
    int why = SSL_get_error(c->ssl, rc);
    if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE)
        return shake_failed(e, c);
    if (c->watch_out != (why == SSL_ERROR_WANT_WRITE)) {
        c->watch_out = !c->watch_out;
        conn_watch(e, c);
    }
    return 0;
}

bool tls_overdue(nd_engine *e, const conn *c)
{
    if (!c->shaking || e->now_us - c->opened_us < e->tls.handshake_ms * 1000ull)
        return false;
    e->m->tls_handshake_failures++;
    nd_engine_note(e, ND_EVENT_TLS, c->idx, 0, "the handshake took too long");
    return true;
}

/* ---- bytes ---- */

static ssize_t failed(conn *c, int rc)
{
    switch (SSL_get_error(c->ssl, rc)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        errno = EAGAIN;
        return -1;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default:
        c->broken = true;
        errno = EPROTO;
        return -1;
    }
}

ssize_t tls_recv(conn *c, uint8_t *p, size_t n)
{
    size_t total = 0;
    c->more = false;
    while (total < n) {
        size_t want = n - total;
        ERR_clear_error();
        int rc = SSL_read(c->ssl, p + total, want > INT_MAX ? INT_MAX : (int)want);
        if (rc <= 0) {
            ssize_t why = failed(c, rc);
            c->more = total > 0 && (why == 0 || errno != EAGAIN); /* its end is told by the next read */
            return total > 0 ? (ssize_t)total : why;
        }
        total += (size_t)rc;
    }
    c->more = true;
    return (ssize_t)total;
}

ssize_t tls_send(conn *c, const uint8_t *p, size_t n)
{
    size_t total = 0;
    while (total < n) {
        size_t left = n - total;
        ERR_clear_error();
        int rc = SSL_write(c->ssl, p + total, left > INT_MAX ? INT_MAX : (int)left);
        if (rc <= 0) {
            ssize_t why = failed(c, rc);
            return total > 0 ? (ssize_t)total : why == 0 ? (errno = EPIPE, -1) : why;
        }
        total += (size_t)rc;
    }
    return (ssize_t)total;
}

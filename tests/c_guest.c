/* A complete guest in one file of C: an example for authors of guests, written from docs/protocol.md alone. The numbers
 * in brackets are sections of that document.
 *
 *     gcc -std=gnu11 -Wall -Wextra -Werror -O2 -o c_guest c_guest.c && ./c_guest SOCKET IMAGE
 *
 * It lends memory to the host, prints the device tree, compares the block device with the file IMAGE, reads random
 * bytes, greets a console that echoes. What is not as the document says ends it with status 1; so does a lost link. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {MAX_MESSAGE = 16384, MAX_STR = 256, MAX_BYTES = 4096, MAX_ELEMENTS = 64, MAX_VECTORS = 32, FD_LANE = 1};
enum {CALL, REPLY, IRQ, ACK, HELLO, WELCOME, END, OK = 0, WOULD_BLOCK = 1, BAD_AREA = 4, STALE_HANDLE = 6};
enum {FIRST = 17, CHILD, NEXT, INFO = 22, GETPROP, OPEN = 26, SET_STATUS = 29, GET_FEATURES, SET_FEATURES, DETACH = 36};
enum {SLOTS = 8, CHUNK = 128 << 10, MEMORY = SLOTS * CHUNK, ADDRESS = 0x40000000, PATIENCE_S = 10};
enum {BLOCK, RNG, CONSOLE, DEVICES, DEVICE_FILLS = 1, RX_TRIGGER = 1, ONE_BYTE_WAITS = 65535};

/* A message is a row of items; an array or a map is one with its length, before its elements. The kinds: i int,
   - negative int, s str, b bytes, a array, m map, t bool, n nil, f float, and 0 after the last item. */
typedef unsigned long long u64;
struct item { char kind; u64 n; const char *data; };
#define I(number) {'i', number, NULL}
#define A(elements) {'a', elements, NULL}
#define S(text) {'s', strlen(text), text}
#define B(bytes, length) {'b', length, bytes}
#define MEMORY_AREA(offset, length) A(1), A(3), I(ADDRESS + (offset)), I(length), I(DEVICE_FILLS)

struct reply { u64 status; const struct item *value; };             /* the value is good until the next message */
struct device {
    const char *match;                                              /* a string that its node is compatible with */
    u64 node, handle;                                               /* 0: not found, not open */
    u64 read, write, set_param, rx_ready, tx_ready;                 /* numbers from the hypercall table, or ~0 */
    u64 hints, counts[MAX_VECTORS];                                 /* hints: vectors with an IRQ that awaits its ACK */
};
struct guest {
    int socket, lane[2];
    uint8_t *memory, in[MAX_MESSAGE];
    size_t at, end, length;                                         /* in[] from at to end is still to be decoded */
    char message[MAX_MESSAGE], path[4096];                          /* the last message, its length above, its items */
    struct item items[MAX_MESSAGE + 1];
    u64 seq, waiting[SLOTS], idle[SLOTS], idle_count;               /* seq of a slot's call, or 0; a stack of slots */
    struct device devices[DEVICES];
};

#define require(condition, ...) do { if (!(condition)) { \
    fprintf(stderr, "c_guest: " __VA_ARGS__); fputc('\n', stderr); exit(1); } } while (0)
static u64 least(u64 a, u64 b) { return a < b ? a : b; }
static int equals(const struct item *i, const char *s) { return i->n == strlen(s) && !memcmp(i->data, s, i->n); }

/* Sends a message [2], with two descriptors or none. All widths are accepted, so one form of each kind will do. */
static void send_message(struct guest *g, const struct item *item, const int *fds) {
    uint8_t out[MAX_MESSAGE], *at = out;
    for (; item->kind; item++) {
        size_t text = item->kind == 's' || item->kind == 'b' ? item->n : 0;
        require((size_t)(out + sizeof out - at) >= 9 + text, "our message is too long");
        *at++ = item->kind == 'i' ? 0xcf : item->kind == 's' ? 0xda : item->kind == 'b' ? 0xc5 : 0xdc;
        for (int shift = item->kind == 'i' ? 56 : 8; shift >= 0; shift -= 8) *at++ = item->n >> shift;
        at = mempcpy(at, text ? item->data : "", text);
    }
    struct { struct cmsghdr head; int fds[2]; } control = {.fds = {fds ? fds[0] : -1, fds ? fds[1] : -1}, .head = {
        .cmsg_len = CMSG_LEN(sizeof control.fds), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct msghdr message = {.msg_iov = &(struct iovec){out, at - out}, .msg_iovlen = 1,
        .msg_control = &control, .msg_controllen = fds ? sizeof control : 0};
    require(TEMP_FAILURE_RETRY(sendmsg(g->socket, &message, MSG_NOSIGNAL)) == at - out, "sendmsg: %m");
}

/* Messages have no frames: whoever wants the next byte waits for it, and reads ahead as much as there is. */
static uint8_t next_byte(struct guest *g) {
    if (g->at == g->end) {
        ssize_t n = TEMP_FAILURE_RETRY(recv(g->socket, g->in, sizeof g->in, 0));
        require(n > 0, "no message: %s", n ? strerror(errno) : "the host closed the connection");
        g->at = 0, g->end = n;
    }
    require(g->length < MAX_MESSAGE, "a message of more than %d bytes", MAX_MESSAGE);
    return g->message[g->length++] = g->in[g->at++];
}

/* Decodes the next message to g->items [2]. It does not recurse, since the depth is the sender's choice. */
static void next_message(struct guest *g) {
    static const char kinds[] = "n!ttbbb!!!ffiiii----!!!!!sssaamm-", widths[] = "000012400048124812480000012424240";
    struct item *item = g->items;
    g->length = 0;
    for (u64 missing = 1; missing; missing--, (++item)->kind = 0) {
        uint8_t head = next_byte(g), row = head < 0xc0 ? 32 : least(head - 0xc0, 32);
        int width = widths[row] - '0';                              /* a row for each of 0xc0 to 0xdf, one for others */
        item->kind = head < 0x80 ? 'i' : head < 0x90 ? 'm' : head < 0xa0 ? 'a' : head < 0xc0 ? 's' : kinds[row];
        item->n = head < 0x80 ? head : head < 0xa0 ? head & 15 : head < 0xc0 ? head & 31 : head == 0xc3;
        require(item->kind != '!', "0x%02x is not msgpack, or an extension type", head);
        for (int i = 0; i < width; i++) item->n = item->n << 8 | next_byte(g);
        if (item->kind == '-' && width && !(item->n >> (8 * width - 1))) item->kind = 'i';     /* not negative at all */
        u64 size = strchr("sbam", item->kind) ? item->n : 0, text = strchr("sb", item->kind) ? size : 0;
        require(size <= (item->kind == 's' ? MAX_STR : text ? MAX_BYTES : MAX_ELEMENTS), "over a limit: %llu", size);
        item->data = g->message + g->length;
        while (text--) next_byte(g);
        missing += item->kind == 'a' ? size : item->kind == 'm' ? 2 * size : 0;
    }
}

/* Requires items of these kinds; a digit stands for an array of so many elements. */
static const struct item *expect(const struct item *items, const char *kinds, const char *what) {
    for (const struct item *i = items; *kinds; kinds++, i++)
        require(i->kind == *kinds || (i->kind == 'a' && i->n == (u64)(*kinds - '0')), "%s: of a wrong shape", what);
    return items;
}

/* Waits for a message [4] of the wanted kind, or an IRQ: that may come at any time, and is noted at its device. */
static u64 receive(struct guest *g, u64 wanted) {
    static const char *const shapes[] = {[REPLY] = "5iiii", [IRQ] = "4iiii", [WELCOME] = "6iiiiit", [END] = "5iisii"};
    next_message(g);
    const struct item *m = expect(g->items, "ai", "a message");
    u64 kind = m[1].n, tag = m[2].n, vector = m[3].n, count = m[4].n;
    require(kind == wanted || kind == IRQ || kind == END, "a message of the kind %llu, not %llu", kind, wanted);
    expect(m, shapes[kind], "a message");
    require(kind != END, "the host ended the session, status %llu: %.*s", m[2].n, (int)m[3].n, m[3].data);
    if (kind == IRQ) {
        struct device *d = tag - 1 < DEVICES ? &g->devices[tag - 1] : NULL;
        require(d && d->handle && vector < MAX_VECTORS, "IRQ: tag %llu or vector %llu is not ours", tag, vector);
        require(!(d->hints >> vector & 1) && count > d->counts[vector], "IRQ: vector %llu out of turn", vector);
        d->hints |= 1ull << vector, d->counts[vector] = count;
    }
    return kind;
}

/* Waits for an interrupt [9], acknowledges it, and returns its count. */
static u64 wait_interrupt(struct guest *g, struct device *d, u64 vector) {
    require(vector < MAX_VECTORS, "%s: it has no such vector", d->match);
    while (!(d->hints >> vector & 1)) receive(g, IRQ);
    d->hints &= ~(1ull << vector);
    send_message(g, (struct item[]){A(4), I(ACK), I(d->handle), I(vector), I(d->counts[vector]), {0}}, NULL);
    return d->counts[vector];
}

/* Calls [5]: SUBMIT sends one, HYPERCALL gets its reply, too. After the handle come the items of args and areas. */
#define HYPERCALL(g, ...) (SUBMIT(g, __VA_ARGS__), wait_reply(g))
#define SUBMIT(g, number, handle, ...) \
    submit(g, (struct item[]){A(7), I(CALL), I(0), I(0), I(number), I(handle), __VA_ARGS__, {0}})
static void submit(struct guest *g, struct item *call) {
    call[2].n = g->idle[--g->idle_count];
    call[3].n = g->waiting[call[2].n] = ++g->seq;
    send_message(g, call, NULL);
}

static struct reply wait_reply(struct guest *g) {
    while (receive(g, REPLY) != REPLY) {}
    u64 slot = g->items[2].n, seq = g->items[3].n, status = g->items[4].n;
    require(slot < SLOTS && seq && g->waiting[slot] == seq, "a reply to no call: slot %llu, seq %llu", slot, seq);
    g->waiting[slot] = 0, g->idle[g->idle_count++] = slot;
    return (struct reply){status, expect(g->items + 5, status == OK ? "" : "s", "the text of a refusal")};
}

/* The value, of these kinds, of a call that must succeed. */
static const struct item *value(struct reply r, const char *kinds, const char *what) {
    require(r.status == OK, "%s: status %llu: %.*s", what, r.status, (int)r.value->n, r.value->data);
    return expect(r.value, kinds, what);
}

/* Connects, with memory for the host to share, and an fd lane [3]. */
static void attach(struct guest *g, const char *path) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    char token[16];
    int fd = memfd_create("guest memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    require(fd >= 0 && !ftruncate(fd, MEMORY) && !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
            && (g->memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) != MAP_FAILED, "memory: %m");
    require(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, g->lane), "fd lane: %m");
    require(getrandom(token, sizeof token, 0) == sizeof token, "token: %m");
    require(snprintf(to.sun_path, sizeof to.sun_path, "%s", path) < (int)sizeof to.sun_path, "%s: too long", path);
    g->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(g->socket, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = PATIENCE_S}, sizeof(struct timeval));
    require(!connect(g->socket, (struct sockaddr *)&to, sizeof to), "%s: %m", path);
    send_message(g, (struct item[]){A(8), I(HELLO), S("hcall"), I(1), I(1), I(FD_LANE), S("c_guest"), B(token, 16),
                                    A(1), A(2), I(ADDRESS), I(MEMORY), {0}}, (int[]){fd, g->lane[1]});
    close(fd), close(g->lane[1]);                                   /* the host has them; lane[0] shows that we live */
    require(receive(g, WELCOME) == WELCOME, "an IRQ before WELCOME");
    u64 version = g->items[2].n, features = g->items[3].n, slots = g->items[5].n, resumed = g->items[6].n;
    require(version == 1 && features == FD_LANE && slots && !resumed, "WELCOME: not to what we asked for");
    for (u64 slot = least(slots, SLOTS); slot--;) g->idle[g->idle_count++] = slot;     /* 0 on top: first in order */
}

/* Prints the node and all below it, and finds our devices. So many first bytes of g->path are the parent's. */
static void walk(struct guest *g, u64 node, int depth, size_t length) {
    struct reply r = HYPERCALL(g, INFO, node, A(0), A(0));
    if (r.status == STALE_HANDLE) return;                           /* it was unplugged while we looked */
    const struct item *name = value(r, "3sa", "INFO") + 1, *compatible = name + 2, *ids = compatible + name[1].n;
    if (depth) length += snprintf(g->path + length, sizeof g->path - length, "/%.*s", (int)name->n, name->data);
    require(length < sizeof g->path, "INFO: the path is too long");
    printf("%-16s ", depth ? g->path : "/");
    for (const struct item *c = compatible; c < ids; c++) {
        printf("%s%.*s", c == compatible ? "" : ",", (int)expect(c, "s", "INFO")->n, c->data);
        for (struct device *d = g->devices; d < g->devices + DEVICES; d++)
            if (!d->node && equals(c, d->match)) d->node = node;
    }
    printf(" %04llx:%04llx\n", expect(ids, "2ii", "INFO: ids")[1].n, ids[2].n);
    for (u64 last = 0, child = 0;;) {                               /* last: the greatest handle that was shown */
        r = HYPERCALL(g, child ? NEXT : CHILD, child ? child : node, A(0), A(0));
        if (r.status == STALE_HANDLE ? !child : !value(r, "i", "NEXT")->n) return;
        child = r.status == STALE_HANDLE ? 0 : r.value->n;          /* was it unplugged? then from the first again */
        if (child > last) walk(g, last = child, depth + 1, length);
    }
}

static u64 find(const struct item *map, const char *name) {
    for (const struct item *i = map + 1; i < map + 1 + 2 * map->n; i += 2)
        if (equals(expect(i, "si", "OPEN: a table"), name)) return i[1].n;
    return ~0ull;
}

/* Opens a device and sets it up [11] by ACKNOWLEDGE 1, DRIVER 2, FEATURES_OK 8, DRIVER_OK 4. A cookie of 0 is none. */
static struct device *start(struct guest *g, int index) {
    struct device *d = &g->devices[index];
    require(d->node, "there is no %s", d->match);
    const struct item *m = value(HYPERCALL(g, OPEN, d->node, A(1), I(index + 1), A(0)), "4im", "OPEN");
    const struct item *calls = m + 2, *vectors = expect(calls + 1 + 2 * calls->n, "m", "OPEN: vectors");
    d->handle = m[1].n, d->rx_ready = find(vectors, "rx_ready"), d->tx_ready = find(vectors, "tx_ready");
    d->read = find(calls, "read"), d->write = find(calls, "write"), d->set_param = find(calls, "set_param");
    for (const char *status = (char[]){1, 3, 11, 15, 0}; *status; status++) {   /* we need no features */
        if (*status == 11) value(HYPERCALL(g, GET_FEATURES, d->handle, A(0), A(0)), "i", "GET_FEATURES");
        if (*status == 11) value(HYPERCALL(g, SET_FEATURES, d->handle, A(1), I(0), A(0)), "n", "SET_FEATURES");
        u64 now = value(HYPERCALL(g, SET_STATUS, d->handle, A(1), I(*status), A(0)), "i", "SET_STATUS")->n;
        require(now == (u64)*status, "%s: status %llu, not %d", d->match, now, *status);
    }
    return d;
}

/* Compares the whole device with a file: our memory full at a time, with a call in every slot. */
static void use_block(struct guest *g, struct device *d, FILE *file) {
    static uint8_t image[MEMORY];
    u64 capacity = value(HYPERCALL(g, GETPROP, d->node, A(1), S("capacity"), A(0)), "i", "capacity")->n;
    for (u64 done = 0, size, count; done < capacity; done += size) {
        size = least(capacity - done, g->idle_count * CHUNK);
        for (u64 at = count = 0; at < size; at += CHUNK)
            SUBMIT(g, d->read, d->handle, A(1), I(done + at), MEMORY_AREA(at, least(CHUNK, size - at)));
        for (u64 at = 0; at < size; at += CHUNK) count += value(wait_reply(g), "i", "read")->n;
        require(count == size && fread(image, 1, size, file) == size, "block or image: too few bytes after %llu", done);
        require(!memcmp(image, g->memory, size), "block: a difference after byte %llu", done);
    }
    require(fgetc(file) == EOF, "the image is longer than the device");
    printf("block: %llu bytes equal\n", capacity);
    struct reply r = HYPERCALL(g, d->read, d->handle, A(1), I(0), MEMORY_AREA(MEMORY, 512));
    require(r.status == BAD_AREA, "an area outside memory: status %llu", r.status);
    printf("block: BAD_AREA, %.*s\n", (int)r.value->n, r.value->data);
}

/* Reads into the reply [8], and returns the count, or -1 when nothing is there yet. */
static int read_inline(struct guest *g, struct device *d, char *to, u64 room) {
    struct reply r = HYPERCALL(g, d->read, d->handle, A(1), I(0), A(1), I(room));
    if (r.status == WOULD_BLOCK) return -1;
    u64 count = value(r, "b", "read")->n;
    require(count <= room, "read: more bytes than there is room");
    memcpy(to, r.value->data, count);
    return count;
}

static void use_rng(struct guest *g, struct device *d) {
    char bytes[16];
    for (int have = 0, n; have < 16; have += n)
        require((n = read_inline(g, d, bytes + have, 16 - have)) > 0, "rng: no bytes");
    for (int i = 0; i < 16; i++) printf("%s%02x%s", i ? "" : "rng: ", (uint8_t)bytes[i], i < 15 ? "" : "\n");
}

/* Writes a line, and waits until it has come back. */
static void use_console(struct guest *g, struct device *d) {
    static const char line[] = "hello from C\n";
    char seen[MAX_BYTES];
    u64 have = 0, count;
    value(HYPERCALL(g, d->set_param, d->handle, A(2), I(RX_TRIGGER), I(ONE_BYTE_WAITS), A(0)), "n", "set_param");
    while (read_inline(g, d, seen, sizeof seen) > 0) {}             /* what came before us is no echo of ours */
    for (u64 sent = 0; sent < strlen(line);) {
        struct reply r = HYPERCALL(g, d->write, d->handle, A(1), I(0), A(1), B(line + sent, strlen(line) - sent));
        if (r.status == WOULD_BLOCK) wait_interrupt(g, d, d->tx_ready);
        else sent += value(r, "i", "write")->n;
    }
    do {                                                            /* wait only after a read was WOULD_BLOCK [STR-3] */
        count = wait_interrupt(g, d, d->rx_ready);
        for (int n; (n = read_inline(g, d, seen + have, sizeof seen - have)) >= 0; have += n)
            require(n, "console: it ended, or sent %d bytes without an echo", MAX_BYTES);
    } while (!memmem(seen, have, line, strlen(line) - 1));
    printf("console: interrupt %llu, echo ok\n", count);
}

int main(int argc, char **argv) {
    static struct guest g = {.devices = {{.match = "hostd,block"}, {.match = "hostd,rng"}, {.match = "hostd,console"}}};
    FILE *image = argc == 3 ? fopen(argv[2], "rb") : NULL;
    require(image, "usage: c_guest SOCKET IMAGE, a file that can be read");
    attach(&g, argv[1]);
    walk(&g, value(HYPERCALL(&g, FIRST, 0, A(0), A(0)), "i", "FIRST")->n, 0, 0);
    use_block(&g, start(&g, BLOCK), image);
    use_rng(&g, start(&g, RNG));
    use_console(&g, start(&g, CONSOLE));
    value(HYPERCALL(&g, DETACH, 0, A(0), A(0)), "n", "DETACH");
    close(g.socket), close(g.lane[0]), fclose(image);
}

/* A load generator for line protocols: many connections, a window of requests open on each, one answer line a request.

   load HOST PORT WINDOW SECONDS FILE   asks as FILE says; prints {"requests":N,"seconds":S,"refused":N,"p50":s,"p99":s}
   load sink PORT                       answers each line with {"ok":true}, to show how much the generator can do

   FILE holds one block for each connection, blocks parted by an empty line. In a block, lines that begin with '!' are sent first, one by
   one (how to log in); then the others, round and round, until the time is over. An answer that holds "ok":false counts as refused.
   One thread and poll: with a few dozen connections it costs a fraction of what any tracker does for a request. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 256, MAX_WINDOW = 256, IN = 1 << 18, SAMPLES = 1 << 22 };

struct connection {
    int fd, lines, next, setup; /* setup: lines that are sent once */
    char **line;
    int *length;
    double sent[MAX_WINDOW]; /* when each open request left, a ring */
    int oldest, open;
    char in[IN];
    int held;
};

static struct connection *all[MAX_CONNECTIONS];
static float *latency;
static long answered, refused;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void send_all(int fd, const char *data, int length) {
    while (length > 0) {
        ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR) die("send");
        if (sent > 0) data += sent, length -= sent;
    }
}

static int dial(const char *host, int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (fd < 0 || inet_pton(AF_INET, host, &to.sin_addr) != 1 || connect(fd, (struct sockaddr *)&to, sizeof to)) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

/* Take what is here; note each answer. Returns how many came. */
static int take(struct connection *c, int measure) {
    ssize_t got = recv(c->fd, c->in + c->held, IN - 1 - c->held, 0);
    if (got <= 0) die(got ? "recv" : "the tracker hung up");
    c->held += got;
    c->in[c->held] = 0;
    char *line = c->in, *end;
    int count = 0;
    double at = measure ? now() : 0;
    while ((end = memchr(line, '\n', c->in + c->held - line))) {
        *end = 0;
        if (strstr(line, "\"ok\":false")) {
            if (!refused++) fprintf(stderr, "first refusal: %s\n", line);
        }
        if (measure && answered < SAMPLES) latency[answered] = at - c->sent[c->oldest];
        if (measure) answered++, c->oldest = (c->oldest + 1) % MAX_WINDOW, c->open--;
        count++;
        line = end + 1;
    }
    c->held -= line - c->in;
    memmove(c->in, line, c->held);
    if (c->held == IN - 1) die("an answer is too long");
    return count;
}

/* Fill the window in one call, as a client that has many things to say does. */
static void ask(struct connection *c, int window, char *out) {
    int length = 0;
    double at = now();
    while (c->open < window) {
        memcpy(out + length, c->line[c->next], c->length[c->next]);
        length += c->length[c->next];
        c->next = c->next + 1 < c->lines ? c->next + 1 : c->setup;
        c->sent[(c->oldest + c->open++) % MAX_WINDOW] = at;
    }
    send_all(c->fd, out, length);
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static int read_plan(const char *path) {
    FILE *file = fopen(path, "r");
    char *text = NULL;
    size_t room = 0;
    ssize_t length;
    int count = 0, fresh = 1;
    if (!file) die(path);
    while ((length = getline(&text, &room, file)) > 0) {
        if (length == 1) {
            fresh = 1;
            continue;
        }
        if (fresh) all[count++] = calloc(1, sizeof(struct connection)), fresh = 0;
        struct connection *c = all[count - 1];
        int once = text[0] == '!';
        if ((c->lines & (c->lines + 1)) == 0 || !c->line) {
            c->line = realloc(c->line, (2 * c->lines + 2) * sizeof *c->line);
            c->length = realloc(c->length, (2 * c->lines + 2) * sizeof *c->length);
        }
        c->line[c->lines] = strdup(text + once);
        c->length[c->lines++] = length - once;
        c->setup += once;
    }
    fclose(file);
    return count;
}

static int load(const char *host, int port, int window, double seconds, const char *path) {
    static char out[1 << 22];
    static struct pollfd polled[MAX_CONNECTIONS];
    int count = read_plan(path);
    latency = malloc(SAMPLES * sizeof *latency);
    for (int i = 0; i < count; i++) {
        struct connection *c = all[i];
        c->fd = dial(host, port);
        for (c->next = 0; c->next < c->setup; c->next++) {
            send_all(c->fd, c->line[c->next], c->length[c->next]);
            while (!take(c, 0)) continue;
        }
        polled[i] = (struct pollfd){.fd = c->fd, .events = POLLIN};
    }
    double began = now(), end = began + seconds;
    for (int i = 0; i < count; i++) ask(all[i], window, out);
    while (now() < end) {
        if (poll(polled, count, 1000) < 0) die("poll");
        for (int i = 0; i < count; i++)
            if (polled[i].revents) take(all[i], 1), ask(all[i], window, out);
    }
    double took = now() - began;
    long kept = answered < SAMPLES ? answered : SAMPLES;
    qsort(latency, kept, sizeof *latency, by_value);
    printf("{\"requests\":%ld,\"seconds\":%.4f,\"refused\":%ld,\"p50\":%.7f,\"p99\":%.7f}\n", answered, took, refused,
           latency[kept / 2], latency[kept * 99 / 100]);
    return 0;
}

static void sink(int port) {
    static struct pollfd polled[MAX_CONNECTIONS];
    static char in[IN], out[IN];
    static const char answer[] = "{\"ok\":true}\n";
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int door = socket(AF_INET, SOCK_STREAM, 0), one = 1, count = 1;
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (door < 0 || bind(door, (struct sockaddr *)&at, sizeof at) || listen(door, 64)) die("listen");
    polled[0] = (struct pollfd){.fd = door, .events = POLLIN};
    for (;;) {
        if (poll(polled, count, -1) < 0) die("poll");
        if (polled[0].revents && count < MAX_CONNECTIONS) polled[count++] = (struct pollfd){.fd = accept(door, 0, 0), .events = POLLIN};
        for (int i = 1; i < count; i++) {
            if (!polled[i].revents) continue;
            ssize_t got = recv(polled[i].fd, in, sizeof in, 0);
            int length = 0;
            if (got <= 0) {
                close(polled[i].fd);
                polled[i--] = polled[--count];
                continue;
            }
            for (char *p = in; (p = memchr(p, '\n', in + got - p)); p++) {
                memcpy(out + length, answer, sizeof answer - 1);
                length += sizeof answer - 1;
            }
            send_all(polled[i].fd, out, length);
        }
    }
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "sink")) sink(atoi(argv[2]));
    if (argc == 6 && atoi(argv[3]) > 0 && atoi(argv[3]) <= MAX_WINDOW) {
        return load(argv[1], atoi(argv[2]), atoi(argv[3]), atof(argv[4]), argv[5]);
    }
    fprintf(stderr, "load HOST PORT WINDOW SECONDS FILE, or load sink PORT; a window has at most %d requests\n", MAX_WINDOW);
    return 2;
}

/* Faults of single system calls, for a process started with this in LD_PRELOAD.
 *
 * The file named by OBJSTORE_TEST_SHIM is shared with the test:
 *
 *     8 bytes    generation, little-endian; bumped after the text has changed
 *     text       one rule a line: OPERATION GLOB ERRNO FIRST COUNT DELAY_MS
 *     NUL
 *
 * OPERATION is read, write (allocate and truncate too) or sync.  GLOB is matched against the
 * path of the file.  The FIRSTth matching call of the process, and the COUNT - 1 behind it
 * (COUNT 0: all), take DELAY_MS and fail with ERRNO (0: they only take long).  Every strike
 * is told in OBJSTORE_TEST_SHIM.log.  Rules are read anew, and calls counted anew, with each
 * generation.
 *
 * An asynchronous request (io_submit) is a read, a write, or a sync; a write with RWF_DSYNC is
 * both of these.  It too is late without its caller waiting, and fails when it is asked for, as
 * the kernel has it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SIZE 65536
#define RULES_MAX 32

struct rule {
    char operation[8];
    char glob[1024];
    int error;
    long first, count, delay_ms, calls;
};

static volatile uint64_t *shared;
static uint64_t generation;
static struct rule rules[RULES_MAX];
static int rule_count;
static int log_file = -1;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("OBJSTORE_TEST_SHIM");
    char log_path[4096];
    if (path == NULL)
        return;
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return;
    void *memory = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    snprintf(log_path, sizeof log_path, "%s.log", path);
    log_file = open(log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (memory != MAP_FAILED)
        shared = memory;
}

static void parse(void) {
    char text[SIZE];
    memcpy(text, (const char *)shared + 8, SIZE - 8);
    text[SIZE - 9] = 0;
    rule_count = 0;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line && rule_count < RULES_MAX;
         line = strtok_r(NULL, "\n", &rest)) {
        struct rule *r = &rules[rule_count];
        if (sscanf(line, "%7s %1023s %d %ld %ld %ld", r->operation, r->glob, &r->error,
                   &r->first, &r->count, &r->delay_ms) == 6) {
            r->calls = 0;
            rule_count++;
        }
    }
}

static void sleep_ms(long ms) {
    struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
    if (ms)
        nanosleep(&pause, NULL);
}

/* The error that strikes this call, 0 for none; and how late it is. */
static int judge(const char *operation, int file, long *delay_ms) {
    char link[64], path[4096], line[4300];
    int error = 0;
    *delay_ms = 0;
    if (shared == NULL || (*shared == generation && rule_count == 0))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    pthread_mutex_lock(&mutex);
    if (*shared != generation) {
        generation = *shared;
        parse();
    }
    for (int i = 0; i < rule_count; i++) {
        struct rule *r = &rules[i];
        if (strcmp(r->operation, operation) != 0 || fnmatch(r->glob, path, 0) != 0)
            continue;
        r->calls++;
        if (r->calls < r->first || (r->count && r->calls >= r->first + r->count))
            continue;
        error = r->error;
        *delay_ms = r->delay_ms;
        int size = snprintf(line, sizeof line, "%d %s %d %s\n", getpid(), operation, error, path);
        syscall(SYS_write, log_file, line, size);
        break;
    }
    pthread_mutex_unlock(&mutex);
    return error;
}

static int strike(const char *operation, int file) {
    long delay_ms;
    int error = judge(operation, file, &delay_ms);
    sleep_ms(delay_ms);
    return error;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define WRAP(type, name, operation, parameters, arguments, file)                               \
    type name parameters {                                                                     \
        static __typeof__(&name) real;                                                         \
        int error = strike(operation, file);                                                   \
        if (error) {                                                                           \
            errno = error;                                                                     \
            return -1;                                                                         \
        }                                                                                      \
        if (real == NULL)                                                                      \
            real = REAL(name);                                                                 \
        return real arguments;                                                                 \
    }

WRAP(int, fsync, "sync", (int f), (f), f)
WRAP(int, fdatasync, "sync", (int f), (f), f)
WRAP(ssize_t, write, "write", (int f, const void *b, size_t n), (f, b, n), f)
WRAP(ssize_t, pwrite, "write", (int f, const void *b, size_t n, off_t o), (f, b, n, o), f)
WRAP(ssize_t, pwrite64, "write", (int f, const void *b, size_t n, off64_t o), (f, b, n, o), f)
WRAP(ssize_t, writev, "write", (int f, const struct iovec *v, int n), (f, v, n), f)
WRAP(ssize_t, pwritev, "write", (int f, const struct iovec *v, int n, off_t o), (f, v, n, o), f)
WRAP(ssize_t, pwritev64, "write", (int f, const struct iovec *v, int n, off64_t o), (f, v, n, o), f)
WRAP(ssize_t, pwritev2, "write", (int f, const struct iovec *v, int n, off_t o, int g), (f, v, n, o, g), f)
WRAP(ssize_t, pwritev64v2, "write", (int f, const struct iovec *v, int n, off64_t o, int g), (f, v, n, o, g), f)
WRAP(int, ftruncate, "write", (int f, off_t n), (f, n), f)
WRAP(int, ftruncate64, "write", (int f, off64_t n), (f, n), f)
WRAP(int, fallocate, "write", (int f, int m, off_t o, off_t n), (f, m, o, n), f)
WRAP(int, fallocate64, "write", (int f, int m, off64_t o, off64_t n), (f, m, o, n), f)
WRAP(ssize_t, read, "read", (int f, void *b, size_t n), (f, b, n), f)
WRAP(ssize_t, pread, "read", (int f, void *b, size_t n, off_t o), (f, b, n, o), f)
WRAP(ssize_t, pread64, "read", (int f, void *b, size_t n, off64_t o), (f, b, n, o), f)
WRAP(ssize_t, preadv, "read", (int f, const struct iovec *v, int n, off_t o), (f, v, n, o), f)
WRAP(ssize_t, preadv64, "read", (int f, const struct iovec *v, int n, off64_t o), (f, v, n, o), f)
WRAP(ssize_t, preadv2, "read", (int f, const struct iovec *v, int n, off_t o, int g), (f, v, n, o, g), f)
WRAP(ssize_t, preadv64v2, "read", (int f, const struct iovec *v, int n, off64_t o, int g), (f, v, n, o, g), f)

/* These two tell the error by what they return. */
int posix_fallocate(int file, off_t offset, off_t size) {
    int error = strike("write", file);
    return error ? error : REAL(posix_fallocate)(file, offset, size);
}

int posix_fallocate64(int file, off64_t offset, off64_t size) {
    int error = strike("write", file);
    return error ? error : REAL(posix_fallocate64)(file, offset, size);
}

/* ---- asynchronous requests, which have no functions of their own ---- */

#define FAILED_MAX 64

struct late {
    aio_context_t context;
    struct iocb *request;
    long delay_ms;
};

/* Requests that the kernel never saw: what io_getevents is to say of them. */
static struct failed {
    aio_context_t context;
    struct iocb *request;
    int error;
} failed[FAILED_MAX];

static long (*real_syscall)(long, ...);

static int fail(aio_context_t context, struct iocb *request, int error) {
    uint64_t one = 1;
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < FAILED_MAX; i++)
        if (failed[i].request == NULL) {
            failed[i] = (struct failed){context, request, error};
            break;
        }
    pthread_mutex_unlock(&mutex);
    real_syscall(SYS_write, (int)request->aio_resfd, &one, sizeof one);
    return 1;
}

static void *submit_late(void *argument) {
    struct late *late = argument;
    sleep_ms(late->delay_ms);
    if (real_syscall(SYS_io_submit, late->context, 1L, &late->request) != 1)
        fail(late->context, late->request, errno);  /* Nobody waits for the call. */
    free(late);
    return NULL;
}

static int submit_later(aio_context_t context, struct iocb *request, long delay_ms) {
    struct late *late = malloc(sizeof *late);
    pthread_t thread;
    *late = (struct late){context, request, delay_ms};
    if (pthread_create(&thread, NULL, submit_late, late) != 0)
        abort();
    pthread_detach(thread);
    return 1;
}

static long take_failed(aio_context_t context, struct io_event *events, long most) {
    long found = 0;
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < FAILED_MAX && found < most; i++)
        if (failed[i].request != NULL && failed[i].context == context) {
            events[found++] = (struct io_event){.data = failed[i].request->aio_data,
                                                .obj = (uintptr_t)failed[i].request,
                                                .res = -failed[i].error};
            failed[i].request = NULL;
        }
    pthread_mutex_unlock(&mutex);
    return found;
}

static int judge_request(const struct iocb *request, long *delay_ms) {
    int file = (int)request->aio_fildes;
    long sync_delay_ms = 0;
    int error;
    switch (request->aio_lio_opcode) {
    case IOCB_CMD_PREAD:
    case IOCB_CMD_PREADV:
        return judge("read", file, delay_ms);
    case IOCB_CMD_FSYNC:
    case IOCB_CMD_FDSYNC:
        return judge("sync", file, delay_ms);
    default:
        error = judge("write", file, delay_ms);
        if (!error && (request->aio_rw_flags & RWF_DSYNC))
            error = judge("sync", file, &sync_delay_ms);
        *delay_ms += sync_delay_ms;
        return error;
    }
}

long syscall(long number, ...) {
    long a[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    if (real_syscall == NULL)
        real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    if (number == SYS_io_submit && a[1] == 1) {
        struct iocb *request = ((struct iocb **)a[2])[0];
        long delay_ms = 0;
        int error = judge_request(request, &delay_ms);
        if (error)
            return fail(a[0], request, error);
        if (delay_ms)
            return submit_later(a[0], request, delay_ms);
    }
    if (number == SYS_io_getevents) {
        struct io_event *events = (struct io_event *)a[3];
        long found = take_failed(a[0], events, a[2]);
        if (found) {
            long more = real_syscall(number, a[0], 0L, a[2] - found, events + found, NULL);
            return found + (more > 0 ? more : 0);
        }
    }
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* Makes fsync, fdatasync, rename and write hang while the file named by HUNG_DISK exists.
 * write hangs for files below STATE_DIR only, so that logs and sockets still work. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static void hang_while_asked(void) {
    const char *mark = getenv("HUNG_DISK");
    while (mark != NULL && access(mark, F_OK) == 0) usleep(50000);
}

static int is_state(int fd) {
    char link[64], path[PATH_MAX];
    const char *dir = getenv("STATE_DIR");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0 || dir == NULL) return 0;
    path[size] = 0;
    return strncmp(path, dir, strlen(dir)) == 0;
}

int fsync(int fd) {
    hang_while_asked();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}

int fdatasync(int fd) {
    hang_while_asked();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}

int rename(const char *old, const char *new) {
    hang_while_asked();
    return ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename"))(old, new);
}

int renameat(int a, const char *old, int b, const char *new) {
    hang_while_asked();
    return ((int (*)(int, const char *, int, const char *))dlsym(RTLD_NEXT, "renameat"))(a, old, b, new);
}

ssize_t write(int fd, const void *data, size_t size) {
    if (is_state(fd)) hang_while_asked();
    return ((ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write"))(fd, data, size);
}

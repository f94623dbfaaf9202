/* The single file: this program with a Python, its C library and agentd behind it.
 *
 * The first start unpacks what follows into a private directory; every start then becomes that Python by exec, so there
 * is one process and it keeps its pid: systemd's notifications and a container's process 1 depend on that. It is linked
 * statically and needs nothing of the machine but a directory that may be written: no libc, no shell, no /proc.
 *
 * Layout: launcher, entries, trailer. An entry is {mode, length of name, length of data} (three 8-byte numbers), name,
 * data; all in this machine's byte order, since the file runs nowhere else.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

struct trailer { uint64_t start, length; char key[16], loader[32], magic[8]; };
struct entry { uint64_t mode, name, data; };

static const char MAGIC[8] = "agentd\x01";
static struct trailer trailer;
static int self;

static int fail(const char *what, const char *path) {
    fprintf(stderr, "agentd: %s %s: %s\n", what, path, strerror(errno));
    return 0;
}

/* Call `each` on every entry, with the file positioned at its data. */
static int walk(int (*each)(const char *, const struct entry *, const char *), const char *root) {
    uint64_t at = trailer.start, end = trailer.start + trailer.length;
    char name[512];
    while (at < end) {
        struct entry entry;
        if (pread(self, &entry, sizeof entry, at) != sizeof entry || entry.name >= sizeof name) return 0;
        at += sizeof entry;
        if (pread(self, name, entry.name, at) != (ssize_t)entry.name) return 0;
        name[entry.name] = 0;
        at += entry.name;
        if (lseek(self, at, SEEK_SET) < 0 || !each(root, &entry, name)) return 0;
        at += entry.data;
    }
    return 1;
}

/* A cleaner of temporary files may have taken some: a file that is there at its full size is as we wrote it, because
 * nobody else can write there. */
static int present(const char *root, const struct entry *entry, const char *name) {
    char path[PATH_MAX];
    struct stat info;
    snprintf(path, sizeof path, "%s/%s", root, name);
    return stat(path, &info) == 0 && (S_ISDIR(entry->mode) || (uint64_t)info.st_size == entry->data);
}

static int unpack(const char *root, const struct entry *entry, const char *name) {
    static char buffer[1 << 16];
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", root, name);
    if (S_ISDIR(entry->mode)) return mkdir(path, 0700) == 0 || fail("cannot make", path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, (mode_t)entry->mode & 0700);
    if (fd < 0) return fail("cannot write", path);
    for (uint64_t left = entry->data; left > 0;) {
        ssize_t got = read(self, buffer, left < sizeof buffer ? left : sizeof buffer);
        if (got <= 0 || write(fd, buffer, got) != got) { close(fd); return fail("cannot write", path); }
        left -= got;
    }
    return close(fd) == 0;
}

/* Ours alone, and no link: in /tmp anybody may have made it before us. */
static int is_private(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0 && S_ISDIR(info.st_mode) && info.st_uid == geteuid() && !(info.st_mode & 077);
}

/* Unpack below `base` unless that was done before; the directory's path goes to `home`. */
static int settle(const char *base, char *home) {
    char temporary[PATH_MAX], aside[PATH_MAX];
    if (strlen(base) > PATH_MAX - 600) return 0; /* room for every name below it */
    if ((mkdir(base, 0700) != 0 && errno != EEXIST) || !is_private(base)) return 0;
    snprintf(home, PATH_MAX, "%s/%.16s", base, trailer.key);
    if (is_private(home) && walk(present, home)) return 1;
    snprintf(temporary, sizeof temporary, "%s/.%.16s.%ld", base, trailer.key, (long)getpid());
    if (mkdir(temporary, 0700) != 0 || !walk(unpack, temporary)) return 0;
    /* Two first starts at once: whoever renames second finds a whole one there and uses it. */
    if (rename(temporary, home) == 0 || (is_private(home) && walk(present, home))) return 1;
    snprintf(aside, sizeof aside, "%s/.%.16s.%ld.incomplete", base, trailer.key, (long)getpid());
    return rename(home, aside) == 0 && rename(temporary, home) == 0;
}

static int find_home(char *home) {
    const char *cache = getenv("XDG_CACHE_HOME"), *user = getenv("HOME"), *temporary = getenv("TMPDIR");
    char base[PATH_MAX];
    if (cache && *cache == '/' && (snprintf(base, sizeof base, "%s/agentd", cache), settle(base, home))) return 1;
    if (user && *user == '/' && user[1] && (snprintf(base, sizeof base, "%s/.cache/agentd", user), settle(base, home)))
        return 1;
    if (geteuid() == 0 && settle("/var/cache/agentd", home)) return 1;
    snprintf(base, sizeof base, "%s/agentd-%ld", temporary && *temporary == '/' ? temporary : "/tmp", (long)geteuid());
    if (settle(base, home)) return 1;
    /* A container with nothing in it, not even /tmp. */
    snprintf(base, sizeof base, "/.agentd-%ld", (long)geteuid());
    return settle(base, home);
}

int main(int argc, char **argv) {
    /* Not /proc/self/exe: /proc may not be mounted. */
    const char *path = (const char *)getauxval(AT_EXECFN);
    char home[PATH_MAX], loader[PATH_MAX], libraries[PATH_MAX], python[PATH_MAX], start[PATH_MAX], whole[PATH_MAX];
    self = open(path, O_RDONLY | O_CLOEXEC);
    off_t size = self < 0 ? -1 : lseek(self, -(off_t)sizeof trailer, SEEK_END);
    if (size < 0 || read(self, &trailer, sizeof trailer) != sizeof trailer || memcmp(trailer.magic, MAGIC, sizeof MAGIC)) {
        fprintf(stderr, "agentd: %s is damaged; get it again\n", path);
        return 1;
    }
    if (!find_home(home)) {
        fprintf(stderr, "agentd: no directory to unpack into; set TMPDIR to one that may be written and run from\n");
        return 73;
    }
    snprintf(loader, sizeof loader, "%s/lib/%s", home, trailer.loader);
    snprintf(libraries, sizeof libraries, "%s/lib", home);
    snprintf(python, sizeof python, "%s/bin/python3", home);
    snprintf(start, sizeof start, "%s/start.pyc", home);
    char **words = calloc((size_t)argc + 9, sizeof *words);
    int n = 0;
    if (!words) return 1;
    /* The library path goes to our loader as an argument and not into the environment, where hooks would inherit it. */
    words[n++] = loader; words[n++] = "--library-path"; words[n++] = libraries;
    words[n++] = python; words[n++] = "-I"; words[n++] = "-S"; words[n++] = start;
    words[n++] = realpath(path, whole) ? whole : (char *)path;
    for (int i = 1; i < argc; i++) words[n++] = argv[i];
    execv(loader, words);
    fail("cannot run", loader);
    return 126;
}

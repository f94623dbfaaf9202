/* The single file: this program with a Python, its C library and agentd behind it.
 *
 * The first start unpacks the entries into a private directory. Every start then replaces itself by that
 * Python with exec: systemd's notifications and a container's process 1 need the pid to stay the same. The
 * launcher is linked statically and needs only a writable directory: no libc, no shell, no /proc.
 *
 * Layout: launcher, entries, trailer. An entry is {mode, length of name, length of data} (three 8-byte
 * numbers), name, data. All numbers have this machine's byte order, because the file runs only on this kind of
 * machine.
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

/* Call `each` for every entry, with the file offset at the entry's data. */
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

/* A cleaner of temporary files may have deleted some files. A file with the right size is unchanged, because
 * the directory is private. */
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
    if (S_ISDIR(entry->mode)) return mkdir(path, 0700) == 0 || fail("cannot create", path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, (mode_t)entry->mode & 0700);
    if (fd < 0) return fail("cannot write", path);
    for (uint64_t left = entry->data; left > 0;) {
        ssize_t got = read(self, buffer, left < sizeof buffer ? left : sizeof buffer);
        if (got <= 0 || write(fd, buffer, got) != got) { close(fd); return fail("cannot write", path); }
        left -= got;
    }
    return close(fd) == 0;
}

/* This user's directory with mode 0700, not a symbolic link: another user may have created it in /tmp. */
static int is_private(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0 && S_ISDIR(info.st_mode) && info.st_uid == geteuid() && !(info.st_mode & 077);
}

/* Unpack below `base` unless that was done before. Writes the path of the directory to `home`. */
static int unpack_below(const char *base, char *home) {
    char temporary[PATH_MAX], aside[PATH_MAX];
    if (strlen(base) > PATH_MAX - 600) return 0; /* space for every name below it */
    if ((mkdir(base, 0700) != 0 && errno != EEXIST) || !is_private(base)) return 0;
    snprintf(home, PATH_MAX, "%s/%.16s", base, trailer.key);
    if (is_private(home) && walk(present, home)) return 1;
    snprintf(temporary, sizeof temporary, "%s/.%.16s.%ld", base, trailer.key, (long)getpid());
    if (mkdir(temporary, 0700) != 0 || !walk(unpack, temporary)) return 0;
    /* If two first starts run at once, the second rename fails and that start uses the other's directory. */
    if (rename(temporary, home) == 0 || (is_private(home) && walk(present, home))) return 1;
    snprintf(aside, sizeof aside, "%s/.%.16s.%ld.incomplete", base, trailer.key, (long)getpid());
    return rename(home, aside) == 0 && rename(temporary, home) == 0;
}

static int find_home(char *home) {
    const char *cache = getenv("XDG_CACHE_HOME"), *user = getenv("HOME"), *temporary = getenv("TMPDIR");
    char base[PATH_MAX];
    if (cache && *cache == '/' && (snprintf(base, sizeof base, "%s/agentd", cache), unpack_below(base, home))) return 1;
    if (user && *user == '/' && user[1] && (snprintf(base, sizeof base, "%s/.cache/agentd", user), unpack_below(base, home)))
        return 1;
    if (geteuid() == 0 && unpack_below("/var/cache/agentd", home)) return 1;
    snprintf(base, sizeof base, "%s/agentd-%ld", temporary && *temporary == '/' ? temporary : "/tmp", (long)geteuid());
    if (unpack_below(base, home)) return 1;
    /* A container may not have a /tmp. */
    snprintf(base, sizeof base, "/.agentd-%ld", (long)geteuid());
    return unpack_below(base, home);
}

int main(int argc, char **argv) {
    /* Not /proc/self/exe: /proc may not be mounted. */
    const char *path = (const char *)getauxval(AT_EXECFN);
    char home[PATH_MAX], loader[PATH_MAX], libraries[PATH_MAX], python[PATH_MAX], start[PATH_MAX], whole[PATH_MAX];
    self = open(path, O_RDONLY | O_CLOEXEC);
    off_t size = self < 0 ? -1 : lseek(self, -(off_t)sizeof trailer, SEEK_END);
    if (size < 0 || read(self, &trailer, sizeof trailer) != sizeof trailer || memcmp(trailer.magic, MAGIC, sizeof MAGIC)) {
        fprintf(stderr, "agentd: %s is damaged; download it again\n", path);
        return 1;
    }
    if (!find_home(home)) {
        fprintf(stderr, "agentd: cannot unpack: no writable and executable directory; set TMPDIR to one\n");
        return 73;
    }
    snprintf(loader, sizeof loader, "%s/lib/%s", home, trailer.loader);
    snprintf(libraries, sizeof libraries, "%s/lib", home);
    snprintf(python, sizeof python, "%s/bin/python3", home);
    snprintf(start, sizeof start, "%s/start.pyc", home);
    char **words = calloc((size_t)argc + 9, sizeof *words);
    int n = 0;
    if (!words) return 1;
    /* The library path is an argument of the loader, because hooks would inherit an environment variable. */
    words[n++] = loader; words[n++] = "--library-path"; words[n++] = libraries;
    words[n++] = python; words[n++] = "-I"; words[n++] = "-S"; words[n++] = start;
    words[n++] = realpath(path, whole) ? whole : (char *)path;
    for (int i = 1; i < argc; i++) words[n++] = argv[i];
    execv(loader, words);
    fail("cannot run", loader);
    return 126;
}

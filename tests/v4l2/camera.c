// A camera that is not there: what Video4Linux says about one, said to a program that this library is loaded into (LD_PRELOAD).
// The device is whatever has the path in OUTPOST_CAMERA, of a file type that the program takes for a device; it is unplugged
// while nothing has that path. OUTPOST_CAMERA_FORMATS names its formats in four letters each, OUTPOST_CAMERA_FRAME a file that
// it gives as each frame, twenty times a second.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define BUFFERS 4
#define LENGTH (1 << 20)

static int camera = -1;
static void *buffers[BUFFERS];
static int is_queued[BUFFERS];
static int streams;
static struct v4l2_pix_format format;

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

static int fail(int error) {
    errno = error;
    return -1;
}

static int open_camera(void) {
    camera = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    streams = 0;
    memset(is_queued, 0, sizeof is_queued);
    return camera;
}

static int open_file(const char *path, int flags, mode_t mode) {
    if (*setting("OUTPOST_CAMERA") && !strcmp(path, setting("OUTPOST_CAMERA")) && !access(path, F_OK))
        return open_camera();
    return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

#define OPEN(name)                                                                                                             \
    int name(const char *path, int flags, ...) {                                                                               \
        va_list arguments;                                                                                                     \
        va_start(arguments, flags);                                                                                            \
        mode_t mode = va_arg(arguments, mode_t);                                                                               \
        va_end(arguments);                                                                                                     \
        return open_file(path, flags, mode);                                                                                   \
    }
OPEN(open)
OPEN(open64)

static void *map(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    if (fd < 0 || fd != camera)
        return (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
    size_t index = offset / LENGTH;
    void *memory = (void *)syscall(SYS_mmap, NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    buffers[index] = memory;
    return memory;
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    return map(at, length, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    return map(at, length, protection, flags, fd, offset);
}

static int is_due(void) {
    struct pollfd one = {.fd = camera, .events = POLLIN};
    return streams && poll(&one, 1, 0) == 1;
}

static int first_queued(void) {
    for (int index = 0; index < BUFFERS; index++)
        if (is_queued[index])
            return index;
    return -1;
}

static int has_format(uint32_t wanted) {
    for (const char *one = setting("OUTPOST_CAMERA_FORMATS"); *one; one += 4)
        if (!memcmp(one, &wanted, 4))
            return 1;
    return 0;
}

static int stream(int on) {
    struct itimerspec every = {{0, 0}, {0, 0}};
    if (on)
        every.it_interval.tv_nsec = every.it_value.tv_nsec = 50000000;
    streams = on;
    if (!on)
        memset(is_queued, 0, sizeof is_queued);
    return timerfd_settime(camera, 0, &every, NULL);
}

// Grey where it gives pixels, the file where it gives files.
static uint32_t fill(void *buffer) {
    if (format.pixelformat == V4L2_PIX_FMT_YUYV) {
        memset(buffer, 128, format.sizeimage);
        return format.sizeimage;
    }
    int file = syscall(SYS_openat, AT_FDCWD, setting("OUTPOST_CAMERA_FRAME"), O_RDONLY, 0);
    ssize_t length = read(file, buffer, LENGTH);
    close(file);
    return length < 0 ? 0 : length;
}

static int answer(unsigned long request, void *about) {
    struct v4l2_buffer *buffer = about;
    uint64_t passed;
    if (access(setting("OUTPOST_CAMERA"), F_OK))
        return fail(ENODEV);
    switch (request) {
    case VIDIOC_QUERYCAP: {
        struct v4l2_capability *capability = about;
        memset(capability, 0, sizeof *capability);
        capability->capabilities = V4L2_CAP_DEVICE_CAPS | V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        capability->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        return 0;
    }
    case VIDIOC_ENUM_FMT: {
        struct v4l2_fmtdesc *one = about;
        const char *formats = setting("OUTPOST_CAMERA_FORMATS");
        if (one->index * 4 >= strlen(formats))
            return fail(EINVAL);
        memcpy(&one->pixelformat, formats + one->index * 4, 4);
        return 0;
    }
    case VIDIOC_S_FMT: {
        struct v4l2_format *wanted = about;
        if (!has_format(wanted->fmt.pix.pixelformat))
            return fail(EINVAL);
        // The one size that it has.
        wanted->fmt.pix.width = 64;
        wanted->fmt.pix.height = 48;
        wanted->fmt.pix.bytesperline = wanted->fmt.pix.pixelformat == V4L2_PIX_FMT_YUYV ? 128 : 0;
        wanted->fmt.pix.sizeimage = wanted->fmt.pix.bytesperline ? 128 * 48 : LENGTH;
        format = wanted->fmt.pix;
        return 0;
    }
    case VIDIOC_REQBUFS: {
        struct v4l2_requestbuffers *wanted = about;
        if (wanted->count > BUFFERS)
            wanted->count = BUFFERS;
        return 0;
    }
    case VIDIOC_QUERYBUF:
        buffer->length = LENGTH;
        buffer->m.offset = buffer->index * LENGTH;
        buffer->flags = is_due() && (int)buffer->index == first_queued() ? V4L2_BUF_FLAG_DONE : 0;
        return 0;
    case VIDIOC_QBUF:
        is_queued[buffer->index] = 1;
        return 0;
    case VIDIOC_DQBUF:
        if (!streams || first_queued() < 0 || read(camera, &passed, sizeof passed) < 0)
            return fail(EAGAIN);
        buffer->index = first_queued();
        is_queued[buffer->index] = 0;
        buffer->bytesused = fill(buffers[buffer->index]);
        buffer->flags = V4L2_BUF_FLAG_MAPPED;
        return 0;
    case VIDIOC_STREAMON:
        return stream(1);
    case VIDIOC_STREAMOFF:
        return stream(0);
    }
    // Rates, for one: it has none.
    return fail(ENOTTY);
}

int ioctl(int fd, unsigned long request, ...) {
    va_list arguments;
    va_start(arguments, request);
    void *about = va_arg(arguments, void *);
    va_end(arguments);
    if (fd >= 0 && fd == camera && (request >> 8 & 0xff) == 'V')
        return answer((unsigned int)request, about);
    return syscall(SYS_ioctl, fd, request, about);
}

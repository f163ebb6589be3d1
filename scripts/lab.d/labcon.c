// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * labcon - commands in a guest, over nothing but its Xen console.
 *
 * One static program with several faces, chosen by its first argument:
 *
 *   labcon agent                in the guest: owns /dev/hvc0, runs what it is told
 *   labcon serve NAME TTY       in Dom0, one per guest: owns the console's pty,
 *                               offers a unix socket, and writes the guest's log
 *   labcon run|wait|status ...  in Dom0: the client behind `guest`
 *   labcon kmsg                 in Dom0: its kernel's log, for the launcher
 *   labcon fpu COUNT            anywhere: do the vector registers survive?
 *
 * The console carries lines.  A line that starts with "~L" is a frame; every
 * other line is console text, and is logged:
 *
 *   ~L id(2 hex) type(1) seq(2 hex) base64 * crc16(4 hex) \n
 *
 * To the guest:   c command bytes, x run, t run on a pty, i stdin, e end of
 *                 stdin, k kill, R reset (kill everything)
 * From the guest: o stdout, r stderr, q exit status, a one stdin frame taken,
 *                 l kernel log line, h heartbeat (uptime), b agent has started
 *
 * A frame that the kernel's own console output tore apart fails its CRC and the
 * sequence number of its job then has a gap: the job ends with an error, never
 * with wrong data.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define CHUNK 510		/* payload of a frame */
#define LINE 1024		/* a frame's line, and the longest log line kept */
#define JOBS 64
#define WINDOW 16		/* stdin frames under way per job */
#define CMDMAX 65536
#define RUN_DIR "/run/lab/guest"
#define HOSTLOG "/run/lab/hostlog"

static void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(125);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static int write_all(int fd, const void *buf, size_t len)
{
	const char *p = buf;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0) {
			struct pollfd pf = { .fd = fd, .events = POLLOUT };

			if (errno == EINTR)
				continue;
			if (errno != EAGAIN)
				return -1;
			poll(&pf, 1, 1000);
			continue;
		}
		p += n;
		len -= n;
	}
	return 0;
}

/* ---- frames ---- */

static const char b64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static signed char b64rev[256];

static void b64_init(void)
{
	memset(b64rev, -1, sizeof(b64rev));
	for (int i = 0; i < 64; i++)
		b64rev[(unsigned char)b64[i]] = i;
}

static uint16_t crc16(const char *p, size_t n)
{
	uint16_t crc = 0xffff;

	while (n--) {
		crc ^= (uint16_t)(unsigned char)*p++ << 8;
		for (int i = 0; i < 8; i++)
			crc = crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1;
	}
	return crc;
}

struct frame {
	unsigned id, seq;
	char type;
	int len;
	unsigned char data[CHUNK + 4];
};

static int frame_send(int fd, unsigned id, char type, unsigned seq, const void *data, int len)
{
	char line[LINE];
	const unsigned char *d = data;
	int n = sprintf(line, "~L%02x%c%02x", id & 255, type, seq & 255);

	for (int i = 0; i < len; i += 3) {
		uint32_t v = d[i] << 16 | (i + 1 < len ? d[i + 1] << 8 : 0) | (i + 2 < len ? d[i + 2] : 0);

		line[n++] = b64[v >> 18];
		line[n++] = b64[v >> 12 & 63];
		if (i + 1 < len)
			line[n++] = b64[v >> 6 & 63];
		if (i + 2 < len)
			line[n++] = b64[v & 63];
	}
	n += sprintf(line + n, "*%04x\n", crc16(line, n));
	return write_all(fd, line, n);
}

/* 1: a frame; 0: not a frame; -1: a damaged one. */
static int frame_parse(const char *line, struct frame *f)
{
	const char *star, *p;
	unsigned crc;
	uint32_t v = 0;
	int bits = 0;

	if (strncmp(line, "~L", 2))
		return 0;
	star = strrchr(line, '*');
	if (!star || star - line < 7 || sscanf(star + 1, "%4x", &crc) != 1 ||
	    crc != crc16(line, star - line) ||
	    sscanf(line + 2, "%2x%c%2x", &f->id, &f->type, &f->seq) != 3)
		return -1;
	f->len = 0;
	for (p = line + 7; p < star; p++) {
		if (b64rev[(unsigned char)*p] < 0 || f->len >= (int)sizeof(f->data) - 1)
			return -1;
		v = v << 6 | b64rev[(unsigned char)*p];
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			f->data[f->len++] = v >> bits;
		}
	}
	f->data[f->len] = 0;
	return 1;
}

/* Collects bytes into lines; calls back for each. */
struct liner {
	char buf[LINE];
	int len;
};

static void liner_feed(struct liner *l, const char *p, int n, void (*fn)(char *line))
{
	for (; n--; p++) {
		if (*p == '\r' || !*p)
			continue;
		/* A frame that starts in the middle of unfinished text. */
		if (*p == '~' && l->len && l->buf[0] != '~') {
			l->buf[l->len] = 0;
			fn(l->buf);
			l->len = 0;
		}
		if (*p == '\n' || l->len == LINE - 1) {
			l->buf[l->len] = 0;
			fn(l->buf);
			l->len = 0;
			if (*p == '\n')
				continue;
		}
		l->buf[l->len++] = *p;
	}
}

static void make_raw(int fd)
{
	struct termios t;

	if (tcgetattr(fd, &t))
		return;
	cfmakeraw(&t);
	tcsetattr(fd, TCSANOW, &t);
}

/* ---- the agent, in the guest ---- */

struct chunk {
	int len, off;
	unsigned char data[CHUNK];
};

static struct job {
	unsigned id, seq;
	pid_t pid;		/* 0: slot is free or still collecting the command */
	int used, in, out, err, status, in_eof, rows, cols;
	double exited;		/* when it was reaped, 0 before */
	char *cmd;
	int cmdlen;
	struct chunk q[WINDOW];
	int qhead, qlen;
} jobs[JOBS];

static int tty;

static void job_free(struct job *j)
{
	if (j->in >= 0)
		close(j->in);
	if (j->out >= 0)
		close(j->out);
	if (j->err >= 0)
		close(j->err);
	free(j->cmd);
	memset(j, 0, sizeof(*j));
}

static struct job *job_get(unsigned id, int create)
{
	struct job *free_slot = NULL;

	for (int i = 0; i < JOBS; i++) {
		if (jobs[i].used && jobs[i].id == id)
			return &jobs[i];
		if (!jobs[i].used && !free_slot)
			free_slot = &jobs[i];
	}
	if (!create || !free_slot)
		return NULL;
	memset(free_slot, 0, sizeof(*free_slot));
	free_slot->used = 1;
	free_slot->id = id;
	free_slot->in = free_slot->out = free_slot->err = -1;
	return free_slot;
}

static void job_send(struct job *j, char type, const void *data, int len)
{
	frame_send(tty, j->id, type, j->seq++, data, len);
}

static void job_start(struct job *j, int pty)
{
	char *argv[256];
	int argc = 0, in[2], out[2], err[2];

	for (int i = 0; i < j->cmdlen && argc < 255; i += strlen(j->cmd + i) + 1)
		argv[argc++] = j->cmd + i;
	argv[argc] = NULL;
	if (pty) {
		int m = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
		struct winsize ws = { .ws_row = j->rows ? j->rows : 24, .ws_col = j->cols ? j->cols : 80 };

		if (m < 0 || grantpt(m) || unlockpt(m) || (in[0] = open(ptsname(m), O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0) {
			job_send(j, 'q', "125", 3);
			job_free(j);
			return;
		}
		ioctl(m, TIOCSWINSZ, &ws);
		out[1] = err[1] = in[0];
		j->in = m;
		j->out = fcntl(m, F_DUPFD_CLOEXEC, 0);
	} else {
		if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
			die("agent: pipe: %m");
		j->in = in[1];
		j->out = out[0];
		j->err = err[0];
	}
	j->pid = fork();
	if (!j->pid) {
		sigset_t none;

		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		signal(SIGPIPE, SIG_DFL);
		setsid();
		if (pty)
			ioctl(in[0], TIOCSCTTY, 0);
		dup2(in[0], 0);
		dup2(out[1], 1);
		dup2(err[1], 2);
		execvp(argv[0], argv);
		fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
		_exit(errno == ENOENT ? 127 : 126);
	}
	close(in[0]);
	if (!pty) {
		close(out[1]);
		close(err[1]);
	}
	fcntl(j->in, F_SETFL, O_NONBLOCK);
	fcntl(j->out, F_SETFL, O_NONBLOCK);
	if (j->err >= 0)
		fcntl(j->err, F_SETFL, O_NONBLOCK);
}

static void job_kill(struct job *j)
{
	if (j->pid > 0 && !j->exited)
		kill(-j->pid, SIGKILL);
	/* It is reaped with the others; nobody wants its output any more. */
	job_free(j);
}

static void agent_line(char *line)
{
	struct frame f;
	struct job *j;

	if (frame_parse(line, &f) != 1)
		return;
	switch (f.type) {
	case 'R':
		for (int i = 0; i < JOBS; i++)
			if (jobs[i].used)
				job_kill(&jobs[i]);
		frame_send(tty, 0, 'b', 0, NULL, 0);
		return;
	case 'c':
		j = job_get(f.id, 1);
		if (!j || j->pid || j->cmdlen + f.len > CMDMAX)
			return;
		j->cmd = realloc(j->cmd, j->cmdlen + f.len + 1);
		memcpy(j->cmd + j->cmdlen, f.data, f.len);
		j->cmdlen += f.len;
		j->cmd[j->cmdlen] = 0;
		return;
	case 'x':
	case 't':
		j = job_get(f.id, 0);
		if (!j) {
			frame_send(tty, f.id, 'q', 0, "125", 3);
			return;
		}
		if (f.type == 't')
			sscanf((char *)f.data, "%d %d", &j->rows, &j->cols);
		if (!j->pid)
			job_start(j, f.type == 't');
		return;
	case 'i':
		j = job_get(f.id, 0);
		if (j && j->qlen < WINDOW) {
			struct chunk *c = &j->q[(j->qhead + j->qlen++) % WINDOW];

			c->len = f.len;
			c->off = 0;
			memcpy(c->data, f.data, f.len);
		}
		return;
	case 'e':
		j = job_get(f.id, 0);
		if (j)
			j->in_eof = 1;
		return;
	case 'k':
		j = job_get(f.id, 0);
		if (j)
			job_kill(j);
		return;
	}
}

/* Moves what is there; closes *fd at the end of the stream. */
static int pump_out(struct job *j, int *fd, char type)
{
	unsigned char buf[CHUNK];
	ssize_t n = *fd < 0 ? -1 : read(*fd, buf, sizeof(buf));

	if (*fd < 0)
		return 0;
	if (n > 0) {
		job_send(j, type, buf, n);
		return 1;
	}
	if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		close(*fd);
		*fd = -1;
	}
	return 0;
}

static void pump_in(struct job *j)
{
	while (j->in >= 0 && j->qlen) {
		struct chunk *c = &j->q[j->qhead];
		ssize_t n = write(j->in, c->data + c->off, c->len - c->off);

		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {	/* the reader is gone: swallow the rest */
			close(j->in);
			j->in = -1;
			break;
		}
		c->off += n;
		if (c->off == c->len) {
			j->qhead = (j->qhead + 1) % WINDOW;
			j->qlen--;
			job_send(j, 'a', NULL, 0);
		}
	}
	if (j->in < 0)
		for (; j->qlen; j->qlen--)
			job_send(j, 'a', NULL, 0);
	if (j->in >= 0 && !j->qlen && j->in_eof) {
		close(j->in);
		j->in = -1;
	}
}

/* The next record of the kernel's log as a line of at most CHUNK bytes; 0: none. */
static int kmsg_line(int fd, char *out)
{
	char buf[8192], *msg, *p;
	unsigned prio;
	unsigned long long usec;
	ssize_t n;

	for (;;) {
		n = read(fd, buf, sizeof(buf) - 1);
		if (n < 0 && errno == EPIPE)	/* overwritten before we came */
			continue;
		if (n <= 0)
			return 0;
		buf[n] = 0;
		msg = strchr(buf, ';');
		if (!msg || sscanf(buf, "%u,%*u,%llu", &prio, &usec) != 2)
			continue;
		p = strchr(++msg, '\n');
		if (p)
			*p = 0;
		n = snprintf(out, CHUNK + 1, "<%u>[%5llu.%06llu] %s", prio & 7, usec / 1000000, usec % 1000000, msg);
		return n > CHUNK ? CHUNK : n;
	}
}

static void forward_kmsg(int fd)
{
	char out[CHUNK + 1];
	int n;

	for (int i = 0; i < 200 && (n = kmsg_line(fd, out)) > 0; i++)
		frame_send(tty, 0, 'l', 0, out, n);
}

static int sig_pipe[2];

static void on_chld(int sig)
{
	int e = errno;

	(void)sig;
	e = write(sig_pipe[1], "", 1) < 0 ? e : e;	/* full is as good as written */
	errno = e;
}

static _Noreturn void agent(void)
{
	struct pollfd pf[3 + 3 * JOBS];
	struct liner in = { .len = 0 };
	struct sigaction sa = { .sa_handler = on_chld, .sa_flags = SA_RESTART };
	double beat = 0;
	int kmsg;

	tty = open("/dev/hvc0", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (tty < 0)
		die("agent: /dev/hvc0: %m");
	make_raw(tty);
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	/* Only emergencies (and, by the kernel's own doing, an oops) go straight
	 * to the console from here on; the rest comes through kmsg, framed. */
	klogctl(8, NULL, 1);
	lseek(kmsg, 0, SEEK_END);
	if (pipe2(sig_pipe, O_CLOEXEC | O_NONBLOCK))
		die("agent: pipe: %m");
	sigaction(SIGCHLD, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	frame_send(tty, 0, 'b', 0, NULL, 0);

	for (;;) {
		int n = 3, timeout = 5000, st;
		char buf[4096];
		ssize_t len;
		pid_t pid;

		pf[0] = (struct pollfd){ .fd = tty, .events = POLLIN };
		pf[1] = (struct pollfd){ .fd = kmsg, .events = POLLIN };
		pf[2] = (struct pollfd){ .fd = sig_pipe[0], .events = POLLIN };
		for (int i = 0; i < JOBS; i++) {
			struct job *j = &jobs[i];

			if (!j->used)
				continue;
			if (j->out >= 0)
				pf[n++] = (struct pollfd){ .fd = j->out, .events = POLLIN };
			if (j->err >= 0)
				pf[n++] = (struct pollfd){ .fd = j->err, .events = POLLIN };
			if (j->in >= 0 && j->qlen)
				pf[n++] = (struct pollfd){ .fd = j->in, .events = POLLOUT };
			if (j->exited)
				timeout = 50;
		}
		if (poll(pf, n, timeout) < 0 && errno != EINTR)
			die("agent: poll: %m");
		if (pf[0].revents && (len = read(tty, buf, sizeof(buf))) > 0)
			liner_feed(&in, buf, len, agent_line);
		if (pf[1].revents)
			forward_kmsg(kmsg);
		while (read(sig_pipe[0], buf, sizeof(buf)) > 0)
			;
		while ((pid = waitpid(-1, &st, WNOHANG)) > 0)
			for (int i = 0; i < JOBS; i++)
				if (jobs[i].used && jobs[i].pid == pid) {
					jobs[i].exited = now();
					jobs[i].status = WIFSIGNALED(st) ? 128 + WTERMSIG(st) : WEXITSTATUS(st);
				}
		for (int i = 0; i < JOBS; i++) {
			struct job *j = &jobs[i];
			int moved;

			if (!j->used || !j->pid)
				continue;
			moved = pump_out(j, &j->out, 'o') + pump_out(j, &j->err, 'r');
			pump_in(j);
			if (moved && j->exited)
				j->exited = now();
			/* Done when the output has ended, or when only a daemon
			 * that it left behind still holds it open. */
			if (j->exited && ((j->out < 0 && j->err < 0) || (!moved && now() - j->exited > 0.2))) {
				char s[8];

				job_send(j, 'q', s, sprintf(s, "%d", j->status));
				job_free(j);
			}
		}
		if (now() - beat >= 5) {
			char s[32];

			beat = now();
			frame_send(tty, 0, 'h', 0, s, sprintf(s, "%.1f", beat));
		}
	}
}

/* ---- the server, in Dom0, one per guest ---- */

/* A packet on the unix socket: type, then payload. */
struct packet {
	char type;
	unsigned char data[CHUNK];
};

static struct client {
	int fd;			/* 0: free */
	unsigned id, seq;
	int started;
	struct packet *backlog;	/* what the client has not taken yet */
	int *lens, nback, cap;
} clients[JOBS];

static const char *guest_name;
static int hostlog = -1, logfile = -1, damaged;
static int up;			/* -1: it panicked */
static double last_beat;

/* One line to the guest's log in Dom0 and, with its name, to the launcher. */
static void log_line(const char *kind, const char *text)
{
	char out[LINE + 128];
	int n = snprintf(out, sizeof(out), "%s\t%s\t%s\n", guest_name, kind, text);

	if (n >= (int)sizeof(out)) {
		n = sizeof(out);
		out[n - 1] = '\n';
	}
	/* Lost only when the launcher falls behind; the local log has it then. */
	if (hostlog >= 0 && write(hostlog, out, n) < 0 && errno == EPIPE)
		hostlog = -1;
	if (*kind == 'l' && logfile >= 0)
		dprintf(logfile, "%s\n", text);
}

static void client_drop(struct client *c, int kill_job)
{
	if (kill_job && c->started)
		frame_send(tty, c->id, 'k', 0, NULL, 0);
	close(c->fd);
	free(c->backlog);
	free(c->lens);
	memset(c, 0, sizeof(*c));
}

static void client_flush(struct client *c)
{
	int i = 0;

	while (i < c->nback) {
		if (send(c->fd, &c->backlog[i], c->lens[i], MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			break;
		i++;
	}
	memmove(c->backlog, c->backlog + i, (c->nback - i) * sizeof(*c->backlog));
	memmove(c->lens, c->lens + i, (c->nback - i) * sizeof(*c->lens));
	c->nback -= i;
}

static void client_send(struct client *c, char type, const void *data, int len)
{
	struct packet p = { .type = type };

	if (len > CHUNK)
		len = CHUNK;
	memcpy(p.data, data, len);
	if (!c->nback && send(c->fd, &p, len + 1, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return;
	if (c->nback == c->cap) {
		c->cap = c->cap ? c->cap * 2 : 64;
		c->backlog = realloc(c->backlog, c->cap * sizeof(*c->backlog));
		c->lens = realloc(c->lens, c->cap * sizeof(*c->lens));
		if (!c->backlog || !c->lens)
			die("serve: no memory");
	}
	c->backlog[c->nback] = p;
	c->lens[c->nback++] = len + 1;
}

static void client_fail(struct client *c, const char *why)
{
	client_send(c, '!', why, strlen(why));
	client_flush(c);
	client_drop(c, 1);
}

static void serve_line(char *line)
{
	struct frame f;
	int r = frame_parse(line, &f);

	if (r <= 0) {
		damaged += r < 0;
		if (*line)
			log_line("l", line);
		if (strstr(line, "Kernel panic - not syncing")) {
			up = -1;
			log_line("s", "panicked");
			for (int i = 0; i < JOBS; i++)
				if (clients[i].fd)
					client_fail(&clients[i], "the guest panicked");
		}
		return;
	}
	switch (f.type) {
	case 'b':
		up = 1;
		last_beat = now();
		log_line("s", "up");
		return;
	case 'h':
		up = 1;
		last_beat = now();
		log_line("h", (char *)f.data);
		return;
	case 'l':
		log_line("l", (char *)f.data);
		return;
	}
	for (int i = 0; i < JOBS; i++) {
		struct client *c = &clients[i];

		if (!c->fd || c->id != f.id)
			continue;
		if (f.seq != (c->seq++ & 255)) {
			client_fail(c, "console output was damaged");
			return;
		}
		client_send(c, f.type, f.data, f.len);
		return;
	}
}

static void serve_client(struct client *c)
{
	struct packet p;
	char s[64];
	ssize_t n = recv(c->fd, &p, sizeof(p), MSG_DONTWAIT);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		client_drop(c, 1);
		return;
	}
	switch (p.type) {
	case '?':
		client_send(c, '?', s, sprintf(s, "%d %.1f", up, last_beat ? now() - last_beat : 0));
		return;
	case 'x':
	case 't':
		if (up < 0) {
			client_fail(c, "the guest panicked");
			return;
		}
		c->started = 1;
		/* fall through */
	case 'c':
	case 'i':
	case 'e':
		frame_send(tty, c->id, p.type, 0, p.data, n - 1);
	}
}

static int kmsg(void)
{
	int fd = open("/dev/kmsg", O_RDONLY);
	char out[CHUNK + 1];

	guest_name = "dom0";
	hostlog = open(HOSTLOG, O_RDWR);
	if (fd < 0 || hostlog < 0)
		die("kmsg: %m");
	while (kmsg_line(fd, out) > 0)
		log_line("l", out);
	return 0;
}

static int serve(const char *name, const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct pollfd pf[2 + JOBS];
	struct liner in = { .len = 0 };
	unsigned next_id = 1;
	char file[256];
	int ls;

	guest_name = name;
	signal(SIGPIPE, SIG_IGN);
	snprintf(file, sizeof(file), RUN_DIR "/%s.log", name);
	logfile = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	hostlog = open(HOSTLOG, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	tty = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (tty < 0)
		die("serve: %s: %m", path);
	make_raw(tty);
	ls = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	snprintf(sa.sun_path, sizeof(sa.sun_path), RUN_DIR "/%s.sock", name);
	unlink(sa.sun_path);
	if (ls < 0 || bind(ls, (struct sockaddr *)&sa, sizeof(sa)) || listen(ls, JOBS))
		die("serve: %s: %m", sa.sun_path);
	log_line("s", "attached");
	/* An agent that is already there says so; one that is not yet will. */
	frame_send(tty, 0, 'R', 0, NULL, 0);

	for (;;) {
		char buf[16384];
		ssize_t n;

		pf[0] = (struct pollfd){ .fd = tty, .events = POLLIN };
		pf[1] = (struct pollfd){ .fd = ls, .events = POLLIN };
		for (int i = 0; i < JOBS; i++)
			pf[2 + i] = (struct pollfd){ .fd = clients[i].fd ? clients[i].fd : -1,
				.events = POLLIN | (clients[i].nback ? POLLOUT : 0) };
		if (poll(pf, 2 + JOBS, -1) < 0)
			continue;
		for (int i = 0; i < JOBS; i++) {
			if (pf[2 + i].revents & POLLOUT)
				client_flush(&clients[i]);
			if (pf[2 + i].revents & (POLLIN | POLLHUP | POLLERR) && clients[i].fd)
				serve_client(&clients[i]);
		}
		if (pf[0].revents) {
			n = read(tty, buf, sizeof(buf));
			if (n <= 0 && errno != EINTR && errno != EAGAIN)
				break;
			if (n > 0)
				liner_feed(&in, buf, n, serve_line);
		}
		if (pf[1].revents) {
			int fd = accept4(ls, NULL, NULL, SOCK_CLOEXEC);
			struct client *c = NULL;

			for (int i = 0; i < JOBS && !c; i++)
				if (!clients[i].fd)
					c = &clients[i];
			if (fd > 0 && c) {
				memset(c, 0, sizeof(*c));
				c->fd = fd;
				c->id = next_id;
				next_id = next_id % 255 + 1;
			} else if (fd > 0) {
				close(fd);
			}
		}
	}
	for (int i = 0; i < JOBS; i++)
		if (clients[i].fd)
			client_fail(&clients[i], "the guest is gone");
	unlink(sa.sun_path);
	log_line("s", "gone");
	return 0;
}

/* ---- the vector registers ---- */

/*
 * Do they hold across system calls, while the scheduler moves domains about?
 * With Xen's lazy FPU switching under QEMU they do not; see docs/lab.md.
 */
#define EACH(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11) f(12) f(13) f(14) f(15)
#define LOAD_YMM(n) "vmovdqa 32*" #n "(%[in]), %%ymm" #n "\n"
#define STORE_YMM(n) "vmovdqa %%ymm" #n ", 32*" #n "(%[out])\n"
#define LOAD_XMM(n) "movdqa 32*" #n "(%[in]), %%xmm" #n "\n"
#define STORE_XMM(n) "movdqa %%xmm" #n ", 32*" #n "(%[out])\n"
#define HOLD(load, store)                                                                   \
	asm volatile(EACH(load) "1: dec %[spin]\njnz 1b\nsyscall\n" EACH(store)             \
		     : "+a"(ret), [spin] "+r"(spin)                                         \
		     : "D"(&ts), "S"(0L), [in] "r"(in), [out] "r"(out)                      \
		     : "rcx", "r11", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4",      \
		       "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",   \
		       "xmm13", "xmm14", "xmm15")

static int fpu(int count)
{
	static uint8_t in[512] __attribute__((aligned(32))), out[512] __attribute__((aligned(32)));
	int bad = 0, avx = __builtin_cpu_supports("avx");
	unsigned seed = getpid();

	for (int k = 0; k < count; k++) {
		struct timespec ts = { .tv_nsec = rand_r(&seed) % 3000 * 1000 };
		long ret = 35;	/* nanosleep */
		long spin = rand_r(&seed) % 20000 + 1;

		for (unsigned i = 0; i < sizeof(in); i++)
			in[i] = avx || i % 32 < 16 ? rand_r(&seed) : 0;
		if (avx)
			HOLD(LOAD_YMM, STORE_YMM);
		else
			HOLD(LOAD_XMM, STORE_XMM);
		bad += !!memcmp(in, out, sizeof(in));
	}
	printf("vector registers (%s): %d of %d times corrupted\n", avx ? "AVX" : "SSE", bad, count);
	return bad != 0;
}

/* ---- the client ---- */

static struct termios saved;
static int saved_tty;

static void restore_tty(void)
{
	if (saved_tty)
		tcsetattr(0, TCSANOW, &saved);
}

static int client_connect(const char *name)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(sa.sun_path, sizeof(sa.sun_path), RUN_DIR "/%s.sock", name);
	if (connect(s, (struct sockaddr *)&sa, sizeof(sa))) {
		close(s);
		return -1;
	}
	return s;
}

static void packet_send(int s, char type, const void *data, int len)
{
	struct packet p = { .type = type };

	if (len)
		memcpy(p.data, data, len);
	if (send(s, &p, len + 1, MSG_NOSIGNAL) < 0 && errno != EPIPE)
		die("guest: %m");
}

/* Seconds since the agent's last sign of life; -1: not up yet, -2: no such guest,
 * -3: it panicked. */
static double client_age(const char *name)
{
	struct packet p;
	double age = -1;
	int up_now = 0, s = client_connect(name);
	struct pollfd pf = { .fd = s, .events = POLLIN };
	ssize_t n;

	if (s < 0)
		return -2;
	packet_send(s, '?', NULL, 0);
	if (poll(&pf, 1, 5000) == 1 && (n = recv(s, &p, sizeof(p), 0)) > 1) {
		p.data[n - 1 < CHUNK ? n - 1 : CHUNK - 1] = 0;
		sscanf((char *)p.data, "%d %lf", &up_now, &age);
	}
	close(s);
	return up_now < 0 ? -3 : up_now ? age : -1;
}

static int run(int argc, char **argv)
{
	int opt, want_in = 0, want_tty = 0, s, eof = 0, window = WINDOW;
	double limit = 0, silent = getenv("LAB_SILENCE") ? atof(getenv("LAB_SILENCE")) : 60;
	double start = now(), asked = start, heard = start;
	char cmd[CMDMAX];
	const char *name;
	int len = 0;

	while ((opt = getopt(argc, argv, "+itT:S:")) != -1) {
		switch (opt) {
		case 'i':
			want_in = 1;
			break;
		case 't':
			want_tty = want_in = 1;
			break;
		case 'T':
			limit = atof(optarg);
			break;
		case 'S':
			silent = atof(optarg);
			break;
		default:
			return 125;
		}
	}
	if (argc - optind < 2)
		die("usage: guest [-i] [-t] [-T SECONDS] [-S SECONDS] NAME COMMAND [ARG...]");
	name = argv[optind++];
	if (argc - optind == 1) {	/* one argument: for the shell */
		memcpy(cmd, "sh\0-c", 6);
		len = 6;
	}
	for (; optind < argc; optind++) {
		int n = strlen(argv[optind]) + 1;

		if (len + n > CMDMAX)
			die("guest: command too long");
		memcpy(cmd + len, argv[optind], n);
		len += n;
	}
	s = client_connect(name);
	if (s < 0)
		die("guest: no guest %s is attached", name);
	for (int i = 0; i < len; i += CHUNK)
		packet_send(s, 'c', cmd + i, len - i < CHUNK ? len - i : CHUNK);
	if (want_tty) {
		struct winsize ws = { 0 };
		char size[32];

		ioctl(0, TIOCGWINSZ, &ws);
		packet_send(s, 't', size, sprintf(size, "%d %d", ws.ws_row, ws.ws_col));
		if (!tcgetattr(0, &saved)) {
			saved_tty = 1;
			atexit(restore_tty);
			make_raw(0);
		}
	} else {
		packet_send(s, 'x', NULL, 0);
	}
	if (!want_in)
		packet_send(s, 'e', NULL, 0);

	for (;;) {
		struct pollfd pf[2] = {
			{ .fd = s, .events = POLLIN },
			{ .fd = want_in && !eof && window ? 0 : -1, .events = POLLIN },
		};
		struct packet p;
		ssize_t n;

		poll(pf, 2, 1000);
		if (limit > 0 && now() - start > limit) {
			fprintf(stderr, "guest: %s: no end after %.0f s\n", name, limit);
			return 124;
		}
		if (now() - heard > silent && now() - asked > 5) {
			double age;

			asked = now();
			age = client_age(name);
			if (age == -1 || age > silent)
				die("guest: %s does not answer: no sign of life for %.0f s", name,
				    age < 0 ? now() - heard : age);
		}
		if (pf[1].revents) {
			char buf[CHUNK];

			n = read(0, buf, sizeof(buf));
			if (n > 0) {
				packet_send(s, 'i', buf, n);
				window--;
			} else {
				packet_send(s, 'e', NULL, 0);
				eof = 1;
			}
		}
		if (!pf[0].revents)
			continue;
		n = recv(s, &p, sizeof(p), 0);
		if (n <= 0)
			die("guest: %s: console server went away", name);
		heard = now();
		switch (p.type) {
		case 'o':
			write_all(1, p.data, n - 1);
			break;
		case 'r':
			write_all(2, p.data, n - 1);
			break;
		case 'a':
			window++;
			break;
		case 'q':
			p.data[n - 1 < CHUNK ? n - 1 : CHUNK - 1] = 0;
			return atoi((char *)p.data);
		case '!':
			die("guest: %s: %.*s", name, (int)(n - 1), (char *)p.data);
		}
	}
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";

	b64_init();
	if (!strcmp(verb, "agent"))
		agent();
	if (!strcmp(verb, "serve") && argc == 4)
		return serve(argv[2], argv[3]);
	if (!strcmp(verb, "kmsg"))
		return kmsg();
	if (!strcmp(verb, "fpu") && argc == 3)
		return fpu(atoi(argv[2]));
	if (!strcmp(verb, "run"))
		return run(argc - 1, argv + 1);
	if (!strcmp(verb, "wait") && argc == 4) {
		double end = now() + atof(argv[3]), age;

		while ((age = client_age(argv[2])) < 0) {
			if (age == -2)
				die("guest: %s is gone", argv[2]);
			if (age == -3)
				die("guest: %s panicked", argv[2]);
			if (now() > end)
				die("guest: %s did not come up in %s s", argv[2], argv[3]);
			usleep(200000);
		}
		return 0;
	}
	if (!strcmp(verb, "status") && argc == 3) {
		double age = client_age(argv[2]);

		if (age == -2)
			puts("gone");
		else if (age == -3)
			puts("panicked");
		else if (age < 0)
			puts("starting");
		else
			printf("up, heard %.0f s ago\n", age);
		return age < 0;
	}
	die("usage: labcon agent | serve NAME TTY | run ... | wait NAME SECONDS | status NAME | kmsg | fpu COUNT");
}

/*
 * In a guest or natively: do threads keep their FP registers through system calls, page faults, signals, each other,
 * forks and other programs? Prints what went wrong; exit status 1 if anything did.
 *
 * usage: fp_registers [executed]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS 2000
#define PAGES 8
#define FAR (256 * 1024) /* bytes between pages that no fault brings along */

extern char **environ;
static atomic_long wrong, signals;
static char *self;

static void check(int right, const char *what)
{
	if (!right && wrong++ < 20)
		printf("changed by %s\n", what);
}

struct registers {
	uint64_t xmm1[2], xmm15[2];
};

/* A system call, and what FP registers hold after it that held `in` before it. */
static long call(long number, long a, long b, long c, const struct registers *in, struct registers *out)
{
	long result;

	asm volatile("movups (%[in]), %%xmm1; movups 16(%[in]), %%xmm15; syscall;"
		     "movups %%xmm1, (%[out]); movups %%xmm15, 16(%[out])"
		     : "=a"(result)
		     : "a"(number), "D"(a), "S"(b), "d"(c), [in] "r"(in), [out] "r"(out)
		     : "rcx", "r11", "xmm1", "xmm15", "memory");
	return result;
}

static void fault(char *address, const struct registers *in, struct registers *out)
{
	asm volatile("movups (%[in]), %%xmm1; movups 16(%[in]), %%xmm15; movb $1, (%[address]);"
		     "movups %%xmm1, (%[out]); movups %%xmm15, 16(%[out])"
		     :
		     : [in] "r"(in), [out] "r"(out), [address] "r"(address)
		     : "xmm1", "xmm15", "memory");
}

static int same(const struct registers *a, const struct registers *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

static void faults(const struct registers *in)
{
	struct registers out;
	char *memory = mmap(NULL, PAGES * FAR, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (int page = 0; page < PAGES; page++) {
		fault(memory + page * FAR, in, &out);
		check(same(in, &out), "a page fault");
	}
	call(SYS_munmap, (long)memory, PAGES * FAR, 0, in, &out);
	check(same(in, &out), "munmap");
}

/* With vfork's flags and fork's: the child is checked too. */
static void forks(const struct registers *in)
{
	struct registers out;
	int status;
	long pid = call(SYS_fork, 0, 0, 0, in, &out);

	if (pid == 0)
		_exit(!same(in, &out));
	check(same(in, &out), "fork");
	waitpid(pid, &status, 0);
	check(status == 0, "fork, in the child");
}

static void executes(void)
{
	pid_t pid;
	int status;
	char *arguments[] = {self, "executed", NULL};

	check(posix_spawn(&pid, self, NULL, NULL, arguments, environ) == 0, "posix_spawn, which failed");
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	check(status == 0, "exec, in the new program");
}

static void *work(void *argument)
{
	long id = (long)argument;
	int mode = id % 2 ? FE_UPWARD : FE_DOWNWARD;

	fesetround(mode);
	for (long round = 0; round < ROUNDS; round++) {
		uint64_t x = id << 32 | round;
		struct registers in = {{x, ~x}, {x * 3, x * 5}}, out;
		struct timespec pause = {0, 1000};

		call(SYS_getppid, 0, 0, 0, &in, &out);
		check(same(&in, &out), "a system call");
		call(SYS_sched_yield, 0, 0, 0, &in, &out);
		check(same(&in, &out), "sched_yield");
		call(SYS_nanosleep, (long)&pause, 0, 0, &in, &out);
		check(same(&in, &out), "nanosleep");
		call(SYS_tgkill, getpid(), gettid(), SIGUSR1, &in, &out);
		check(same(&in, &out), "a signal");
		if (round % 10 == 0)
			faults(&in);
		if (round % 200 == 0)
			forks(&in);
		check(fegetround() == mode, "something: the rounding mode");
	}
	return NULL;
}

static void clobber(int number)
{
	(void)number;
	signals++;
	fesetround(FE_TOWARDZERO);
	asm volatile("pcmpeqd %%xmm1, %%xmm1; pcmpeqd %%xmm15, %%xmm15" ::: "xmm1", "xmm15");
}

int main(int count, char **arguments)
{
	struct sigaction action = {.sa_handler = clobber, .sa_flags = SA_RESTART};
	struct itimerval often = {{0, 1500}, {0, 1500}};
	pthread_t threads[4];

	self = arguments[0];
	check(fegetround() == FE_TONEAREST, "somebody before this program");
	if (count > 1)
		return wrong != 0;
	sigaction(SIGALRM, &action, NULL);
	sigaction(SIGUSR1, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	for (long id = 0; id < 4; id++)
		pthread_create(&threads[id], NULL, work, (void *)id);
	fesetround(FE_UPWARD);
	for (int round = 0; round < 10; round++) {
		executes();
		check(fegetround() == FE_UPWARD, "posix_spawn: the rounding mode");
	}
	for (int id = 0; id < 4; id++)
		pthread_join(threads[id], NULL);
	printf("%ld signals, %ld wrong\n", (long)signals, (long)wrong);
	return wrong != 0 || signals < 4 * ROUNDS;
}

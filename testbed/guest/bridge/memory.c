/*
 * What a bridge does with the memory that the guests of one machine share: it takes packets for
 * guests of other machines, puts in those from there, and reports how far the guests are.
 *
 * The structures, the lock and the rules by which sites wake each other are those of the guests'
 * kernel (arch/um/include/shared/sites.h and arch/um/kernel/sites.c in 9-sites.patch).
 */

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SITES_MOST	64
#define SITES_NEVER	0x7fffffffffffffffULL
#define MAX_SKB_FRAGS	17
#define SPINS		200
#define OLD_LINUX_US	100	/* between looks where Linux is older than 5.16 */

#ifndef SYS_futex_waitv
#define SYS_futex_waitv	449
#define FUTEX_32	2

struct futex_waitv {
	unsigned long long val;
	unsigned long long uaddr;
	unsigned int flags;
	unsigned int reserved;
};
#endif

typedef unsigned long long u64;
typedef unsigned int u32;

struct site {
	/* Nothing happens here earlier, unless a packet brings it; in ns */
	unsigned long long next;
	/* Look after the others when next is later than this */
	unsigned long long wake_after;
	/* While it waits: the event for which it does */
	unsigned long long target;
	unsigned int waits;
	unsigned int futex;
	unsigned int attached;
	unsigned int gone;
	/* For reports: times waited, host ns waited, packets and bytes sent */
	unsigned long long waited;
	unsigned long long waited_ns;
	unsigned long long packets;
	unsigned long long bytes;
	/* Packets that came from a queue with less delay than promised */
	unsigned long long hasty;
	unsigned long long unused[6];
};

struct site_ring {
	unsigned int from;
	unsigned int to;
	/* What is sent at t arrives at t + delay or later; in ns */
	unsigned long long delay;
	unsigned long long offset;	/* of its bytes in the memory */
	unsigned long long size;
	unsigned long long unused[4];
	/* Bytes ever written, bytes ever read */
	unsigned long long head;
	unsigned long long unused_too[7];
	unsigned long long tail;
	unsigned long long unused_either[7];
};

struct sites {
	unsigned long long magic;
	unsigned int number;		/* of sites */
	unsigned int rings;		/* link n: rings 2n, from its first end, and 2n + 1 */
	unsigned long long size;	/* of this memory, in bytes */
	unsigned int lock;
	unsigned int unused[9];
	/* The least time in ns in which [from] can change [to], by any path */
	unsigned long long distance[SITES_MOST][SITES_MOST];
	struct site site[SITES_MOST];
	struct site_ring ring[];
};

struct site_packet {
	unsigned int size;	/* of all that follows, and of this, aligned */
	unsigned int headroom;
	unsigned int headlen;
	unsigned int end_offset;
	unsigned int truesize;
	unsigned int frags;
	unsigned int frag_size[MAX_SKB_FRAGS];
	unsigned int hash;
	unsigned int priority;
	unsigned short gso_size;
	unsigned short gso_segs;
	unsigned int gso_type;
	unsigned short csum_start;	/* from the MAC header */
	unsigned short csum_offset;
	unsigned char ip_summed;
	unsigned char hash_bits;
	unsigned short transport;	/* from the MAC header, or NOT_SET */
	unsigned long long time;
};

/* A site as one machine describes it to another; testbed/guest/bridge/memory.py has the same */
struct view {
	u64 next;
	u64 target;
	u32 waits;
	u32 gone;
};

#define READ(value)		__atomic_load_n(&(value), __ATOMIC_RELAXED)
#define WRITE(value, new)	__atomic_store_n(&(value), (new), __ATOMIC_RELAXED)

static void futex_wait(u32 *word, u32 seen)
{
	syscall(SYS_futex, word, FUTEX_WAIT, seen, NULL, NULL, 0);
}

static void futex_wake(u32 *word, int most)
{
	syscall(SYS_futex, word, FUTEX_WAKE, most, NULL, NULL, 0);
}

static void lock_sites(struct sites *sites)
{
	int i;

	for (i = 0; i < SPINS; i++) {
		u32 free = 0;

		if (__atomic_compare_exchange_n(&sites->lock, &free, 1, 0, __ATOMIC_ACQUIRE,
						__ATOMIC_RELAXED))
			return;
		__builtin_ia32_pause();
	}
	while (__atomic_exchange_n(&sites->lock, 2, __ATOMIC_ACQUIRE) != 0)
		futex_wait(&sites->lock, 2);
}

static void unlock_sites(struct sites *sites)
{
	if (__atomic_exchange_n(&sites->lock, 0, __ATOMIC_RELEASE) == 2)
		futex_wake(&sites->lock, 1);
}

static u64 later(u64 time, u64 by)
{
	if (time >= SITES_NEVER || by >= SITES_NEVER - time)
		return SITES_NEVER;
	return time + by;
}

static int may_advance(struct sites *sites, u32 number, u64 time)
{
	u64 until = SITES_NEVER;
	u32 i;

	for (i = 0; i < sites->number; i++) {
		u64 first = later(READ(sites->site[i].next), sites->distance[i][number]);

		if (i != number && first < until)
			until = first;
	}
	return time < until || (until == SITES_NEVER && time < SITES_NEVER);
}

static void wake(struct site *site)
{
	site->waits = 0;
	__atomic_add_fetch(&site->futex, 1, __ATOMIC_RELEASE);
	futex_wake(&site->futex, INT_MAX);
}

static void wake_sites(struct sites *sites)
{
	u32 i;

	for (i = 0; i < sites->number; i++) {
		struct site *site = &sites->site[i];

		if (site->waits && may_advance(sites, i, site->target))
			wake(site);
	}
}

static void look_after_others(struct sites *sites)
{
	u32 i, j;

	wake_sites(sites);
	for (i = 0; i < sites->number; i++)
		WRITE(sites->site[i].wake_after, SITES_NEVER);

	for (i = 0; i < sites->number; i++) {
		struct site *site = &sites->site[i];

		if (!site->waits)
			continue;
		for (j = 0; j < sites->number; j++) {
			struct site *other = &sites->site[j];
			u64 distance = sites->distance[j][i];
			u64 after;

			if (j == i || distance >= SITES_NEVER ||
			    site->target < later(READ(other->next), distance))
				continue;
			after = site->target > distance ? site->target - distance : 0;
			if (after < other->wake_after)
				WRITE(other->wake_after, after);
		}
	}
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	wake_sites(sites);
}

static char *ring_bytes(struct sites *sites, struct site_ring *ring, u64 at)
{
	return (char *)sites + ring->offset + at % ring->size;
}

static void copy_out(struct sites *sites, struct site_ring *ring, u64 at, void *to, u64 length)
{
	u64 left = ring->size - at % ring->size;
	u64 first = left < length ? left : length;

	memcpy(to, ring_bytes(sites, ring, at), first);
	memcpy((char *)to + first, ring_bytes(sites, ring, at + first), length - first);
}

static void copy_in(struct sites *sites, struct site_ring *ring, u64 at, const void *from,
		    u64 length)
{
	u64 left = ring->size - at % ring->size;
	u64 first = left < length ? left : length;

	memcpy(ring_bytes(sites, ring, at), from, first);
	memcpy(ring_bytes(sites, ring, at + first), (const char *)from + first, length - first);
}

/* How many bytes the packets from `at` to `head` have, at most `most`, and when the first arrives */
static u64 measure(struct sites *sites, struct site_ring *ring, u64 at, u64 head, u64 most,
		   u64 *first)
{
	u64 length = 0;

	while (at + length != head) {
		struct site_packet packet;

		copy_out(sites, ring, at + length, &packet, sizeof(packet));
		if (length + packet.size > most || packet.size < sizeof(packet))
			break;
		length += packet.size;
		if (packet.time < *first)
			*first = packet.time;
	}
	return length;
}

/* Take whole packets out of a ring; return their bytes, and in `first` the earliest arrival */
u64 bridge_take(struct sites *sites, u32 number, void *to, u64 room, u64 *first)
{
	struct site_ring *ring = &sites->ring[number];
	u64 head = __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE);
	u64 length;

	*first = SITES_NEVER;
	length = measure(sites, ring, ring->tail, head, room, first);
	copy_out(sites, ring, ring->tail, to, length);
	__atomic_store_n(&ring->tail, ring->tail + length, __ATOMIC_RELEASE);
	return length;
}

/*
 * Put packets into a ring, of which the first arrives at `first`, and let its end know as a sending
 * kernel does.  Return 0 if they do not fit: the end is then woken, to empty the ring.
 */
int bridge_put(struct sites *sites, u32 number, const void *from, u64 length, u64 first)
{
	struct site_ring *ring = &sites->ring[number];
	struct site *end = &sites->site[ring->to];
	u64 tail = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
	int fits = ring->head + length - tail <= ring->size;

	if (fits)
		copy_in(sites, ring, ring->head, from, length);
	lock_sites(sites);
	if (READ(end->gone)) {
		fits = 1;
	} else if (!fits) {
		WRITE(end->wake_after, 0);
		if (end->waits)
			wake(end);
	} else {
		__atomic_store_n(&ring->head, ring->head + length, __ATOMIC_RELEASE);
		if (first < READ(end->next)) {
			WRITE(end->next, first);
			end->target = first;
			if (end->waits)
				look_after_others(sites);
		}
	}
	unlock_sites(sites);
	return fits;
}

/* Read all sites at one moment */
void bridge_read(struct sites *sites, struct view *views)
{
	u32 i;

	lock_sites(sites);
	for (i = 0; i < sites->number; i++) {
		const struct site *site = &sites->site[i];

		views[i].next = READ(site->next);
		views[i].target = site->target;
		views[i].waits = site->waits;
		views[i].gone = READ(site->gone);
	}
	unlock_sites(sites);
}

/*
 * Set how far the sites in the set `beyond` are, which run on other machines.  Packets to them that
 * no bridge has taken yet count as well.
 */
void bridge_write(struct sites *sites, u64 beyond, const struct view *views)
{
	u32 i;

	lock_sites(sites);
	for (i = 0; i < sites->number; i++) {
		if (!(beyond >> i & 1))
			continue;
		WRITE(sites->site[i].gone, views[i].gone);
		WRITE(sites->site[i].next, views[i].next);
	}
	for (i = 0; i < sites->rings; i++) {
		struct site_ring *ring = &sites->ring[i];
		u64 first = SITES_NEVER;

		if (!(beyond >> ring->to & 1) || beyond >> ring->from & 1)
			continue;
		measure(sites, ring, ring->tail, ring->head, ring->size, &first);
		if (first < sites->site[ring->to].next && !views[ring->to].gone)
			WRITE(sites->site[ring->to].next, first);
	}
	look_after_others(sites);
	unlock_sites(sites);
}

/* Let the sites in the set `beyond` be woken once they may advance to their targets */
void bridge_expect(struct sites *sites, u64 beyond, const struct view *views)
{
	u32 i;

	lock_sites(sites);
	for (i = 0; i < sites->number; i++) {
		if (!(beyond >> i & 1))
			continue;
		sites->site[i].target = views[i].target;
		sites->site[i].waits = views[i].waits;
	}
	look_after_others(sites);
	unlock_sites(sites);
}

/*
 * Wait until one of the sites in the set `beyond` is woken, at most so long; `seen` has the values of
 * their futexes that the caller knows, and gets the new ones.  Return whether one was woken.
 */
int bridge_wait(struct sites *sites, u64 beyond, u32 *seen, u32 most_ms)
{
	struct futex_waitv waiters[SITES_MOST];
	struct timespec until;
	int number = 0, woken = 0;
	u32 i;

	memset(waiters, 0, sizeof(waiters));
	for (i = 0; i < sites->number; i++) {
		if (!(beyond >> i & 1))
			continue;
		waiters[number].val = seen[i];
		waiters[number].uaddr = (unsigned long)&sites->site[i].futex;
		waiters[number].flags = FUTEX_32;
		number++;
	}
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += most_ms % 1000 * 1000000L;
	until.tv_sec += most_ms / 1000 + until.tv_nsec / 1000000000L;
	until.tv_nsec %= 1000000000L;
	if (syscall(SYS_futex_waitv, waiters, number, 0, &until, CLOCK_MONOTONIC) < 0 &&
	    errno == ENOSYS)
		usleep(OLD_LINUX_US);
	for (i = 0; i < sites->number; i++) {
		u32 now = __atomic_load_n(&sites->site[i].futex, __ATOMIC_ACQUIRE);

		if (beyond >> i & 1 && now != seen[i]) {
			seen[i] = now;
			woken = 1;
		}
	}
	return woken;
}

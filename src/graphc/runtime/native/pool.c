// A thread pool for short parallel loops, shared by every caller of the process.
//
// A caller posts a job of up to 64 groups of tasks as a bit mask of what nobody has claimed yet, runs group 0 itself, then
// claims whatever is left. Workers claim from any posted job. So a caller waits only for groups that a worker is running
// at that moment, never for a worker that is busy with somebody else's job, and callers cannot deadlock each other.
// A worker prefers the group of its own number: consecutive loops over one tensor find it in the same core's cache.
//
// Idle workers spin for a while (loops of one model follow each other within microseconds), then sleep on a futex.
//
// A worker that waits on its caller's own core helps nobody: the caller, who finds the groups unclaimed, does them all and
// never gives the core away, and the system's balancer needs milliseconds to see it, which is a whole call of a small
// model. It happens wherever other threads of the program wake up in between. So a caller who goes without help looks
// where the workers are, and sends those beside itself to other cores.
#define _GNU_SOURCE
#include "pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MAX_THREADS = 64, MAX_JOBS = 64, CACHE_LINE = 64 };
enum { PATIENCE = 4 };       // loops in a row without help after which a caller looks for its workers
enum { NOWHERE = -1 };       // the core of a worker that sleeps, or has not run since it was woken
static const int64_t SPIN_NS = 200000;       // a worker's wait for the next job before it sleeps
static const int64_t POLITE_SPIN_NS = 20000;  // after this long, spinning offers its core to others at each turn
static const size_t STACK_BYTES = (size_t)8 << 20;

typedef struct {
  // Bit g: group g is not claimed. Claiming is one fetch_and; a stale reader can only claim what is really open.
  _Alignas(CACHE_LINE) _Atomic uint64_t open;
  _Atomic int32_t finished;  // groups that workers have completed
  _Atomic int32_t status;
  // Written while no group is open or running, read after a successful claim.
  GraphcTask task;
  void* data;
  int32_t tasks;
  int32_t groups;
} Job;

typedef struct {
  int32_t threads;  // what enter() allowed; 0 outside of a call
  int32_t nested;   // running a task: loops inside of it are serial
  int32_t alone;    // loops in a row in which it did groups of workers too
  Job* job;         // this caller's, acquired at its first parallel loop
} Caller;

typedef struct {
  _Alignas(CACHE_LINE) _Atomic int32_t core;  // where it waits for work
  _Atomic int32_t thread;                     // its number for the system; 0 before it has begun
} Worker;

static Job jobs[MAX_JOBS];
static _Alignas(CACHE_LINE) _Atomic uint64_t posted;  // bit j: jobs[j] has open groups
static _Alignas(CACHE_LINE) _Atomic uint64_t owned;   // bit j: jobs[j] belongs to a caller
static _Atomic int32_t callers;                       // between enter() and leave()
static _Alignas(CACHE_LINE) _Atomic int32_t spinning;
static _Atomic int32_t sleeping;
static _Atomic uint32_t wake_word;
static _Atomic int32_t worker_count;
static Worker workers_by_number[MAX_THREADS];
static pthread_mutex_t growing = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t registered = PTHREAD_ONCE_INIT;
static _Thread_local Caller caller;

static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb" ::: "memory");  // `yield` is a no-op on most cores
#endif
}

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

// Paces a wait: pauses at first, and gives the core away once it has lasted.
typedef struct {
  uint32_t turns;
  int64_t start;
} Wait;

static int64_t wait_turn(Wait* wait) {
  relax();
  if (++wait->turns % 32) return 0;
  int64_t now = now_ns();
  if (!wait->start) wait->start = now;
  int64_t waited = now - wait->start;
  if (waited > POLITE_SPIN_NS) sched_yield();
  return waited;
}

static int run_group(const Job* job, int32_t group) {
  GraphcEnvironment environment = {NULL, job->tasks};
  int status = 0;
  for (int32_t task = group; task < job->tasks; task += job->groups) status |= job->task(task, &environment, job->data);
  return status;
}

// Claims an open group, the preferred one if it can; -1 when none is open.
static int32_t claim(Job* job, int32_t preferred) {
  uint64_t open = atomic_load_explicit(&job->open, memory_order_relaxed);
  while (open) {
    int32_t group;
    if (open >> preferred & 1) {
      group = preferred;
    } else {
      uint64_t above = open >> preferred << preferred;
      group = __builtin_ctzll(above ? above : open);
    }
    uint64_t bit = (uint64_t)1 << group;
    uint64_t before = atomic_fetch_and_explicit(&job->open, ~bit, memory_order_acq_rel);
    if (before & bit) {
      // The last claim takes the notice down before it runs, hence before the owner can post again.
      if (before == bit) atomic_fetch_and(&posted, ~((uint64_t)1 << (job - jobs)));
      return group;
    }
    open = before & ~bit;
  }
  return -1;
}

static void work_on(Job* job, int32_t number) {
  int32_t group = claim(job, number);
  if (group < 0) return;
  int status = run_group(job, group);
  if (status) atomic_fetch_or(&job->status, status);
  // From here on the job may be posted anew: touch it no more.
  atomic_fetch_add_explicit(&job->finished, 1, memory_order_release);
}

// Lets the workers on this caller's core run on its other cores only.
static void send_away(int32_t groups) {
  int32_t core = sched_getcpu();
  cpu_set_t others;
  if (core < 0 || sched_getaffinity(0, sizeof others, &others)) return;
  CPU_CLR(core, &others);
  if (!CPU_COUNT(&others)) return;
  for (int32_t number = 1; number < groups; number++) {
    Worker* worker = &workers_by_number[number];
    int32_t thread = atomic_load_explicit(&worker->thread, memory_order_relaxed);
    int32_t place = atomic_load_explicit(&worker->core, memory_order_relaxed);
    // Where the system does not allow it the worker stays, and the caller works alone for as long as it does.
    if (thread && (place == core || place == NOWHERE)) sched_setaffinity(thread, sizeof others, &others);
  }
}

static void sleep_until_posted(void) {
  uint32_t word = atomic_load(&wake_word);
  atomic_fetch_add(&sleeping, 1);
  // A poster that saw nobody asleep had posted before this look at `posted`: no wake-up is lost.
  if (!atomic_load(&posted)) syscall(SYS_futex, &wake_word, FUTEX_WAIT_PRIVATE, word, NULL, NULL, 0);
  atomic_fetch_sub(&sleeping, 1);
}

static void* worker(void* argument) {
  int32_t number = (int32_t)(intptr_t)argument;
  Worker* self = &workers_by_number[number];
  atomic_store_explicit(&self->thread, (int32_t)syscall(SYS_gettid), memory_order_relaxed);
  caller.nested = 1;
  for (;;) {
    Wait wait = {0, 0};
    uint64_t ready;
    atomic_fetch_add(&spinning, 1);
    do {
      // Its line is written only where that says something new: a caller may be reading it.
      int32_t core = wait.turns % 32 ? NOWHERE : sched_getcpu();
      if (core >= 0 && core != atomic_load_explicit(&self->core, memory_order_relaxed))
        atomic_store_explicit(&self->core, core, memory_order_relaxed);
    } while (!(ready = atomic_load_explicit(&posted, memory_order_acquire)) && wait_turn(&wait) < SPIN_NS);
    atomic_fetch_sub(&spinning, 1);
    if (!ready) {
      atomic_store_explicit(&self->core, NOWHERE, memory_order_relaxed);
      sleep_until_posted();
      continue;
    }
    // Workers start from different jobs, so that several callers are all helped.
    uint64_t above = ready >> number << number;
    work_on(&jobs[__builtin_ctzll(above ? above : ready)], number);
  }
  return NULL;
}

// In a forked child no worker exists and no other caller: start over. Workers come back with the next parallel loop.
static void restart_after_fork(void) {
  pthread_mutex_init(&growing, NULL);
  for (int j = 0; j < MAX_JOBS; j++) atomic_store(&jobs[j].open, 0);
  atomic_store(&posted, 0);
  atomic_store(&owned, 0);
  atomic_store(&callers, 0);
  atomic_store(&spinning, 0);
  atomic_store(&sleeping, 0);
  atomic_store(&worker_count, 0);
  for (int32_t number = 0; number < MAX_THREADS; number++) {
    atomic_store(&workers_by_number[number].thread, 0);
    atomic_store(&workers_by_number[number].core, NOWHERE);
  }
  caller = (Caller){0};
}

static void register_fork_handler(void) { pthread_atfork(NULL, NULL, restart_after_fork); }

static void grow(int32_t wanted) {
  pthread_once(&registered, register_fork_handler);
  pthread_mutex_lock(&growing);
  // Signals are for the program's own threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  for (int32_t number = atomic_load(&worker_count) + 1; number <= wanted; number++) {
    pthread_t thread;
    // Without the thread (a limit of the container) the callers do its part.
    if (pthread_create(&thread, &attributes, worker, (void*)(intptr_t)number)) break;
    atomic_store(&worker_count, number);
  }
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_mutex_unlock(&growing);
}

// This caller's job, kept from its first parallel loop to leave(); NULL when all are taken.
static Job* own_job(void) {
  if (!caller.job) {
    uint64_t taken = atomic_load(&owned);
    while (~taken) {
      int j = __builtin_ctzll(~taken);
      if (atomic_compare_exchange_weak(&owned, &taken, taken | (uint64_t)1 << j)) {
        caller.job = &jobs[j];
        break;
      }
    }
  }
  return caller.job;
}

static int launch_serially(GraphcTask task, void* data, int32_t tasks) {
  GraphcEnvironment environment = {NULL, tasks};
  int32_t nested = caller.nested;
  caller.nested = 1;
  int status = 0;
  for (int32_t index = 0; index < tasks; index++) status |= task(index, &environment, data);
  caller.nested = nested;
  return status;
}

static void wake(int32_t wanted) {
  int32_t missing = wanted - atomic_load(&spinning);
  if (missing <= 0 || !atomic_load(&sleeping)) return;
  atomic_fetch_add(&wake_word, 1);
  syscall(SYS_futex, &wake_word, FUTEX_WAKE_PRIVATE, missing, NULL, NULL, 0);
}

static int launch(GraphcTask task, void* data, int tasks) {
  // Callers share the threads: with as many callers as threads, each runs alone, which is when throughput is best.
  int32_t threads = 1;
  if (!caller.nested && caller.threads > 1) {
    int32_t sharing = atomic_load_explicit(&callers, memory_order_relaxed);
    threads = caller.threads / (sharing > 1 ? sharing : 1);
  }
  if (tasks <= 0) tasks = threads > 1 ? threads : 1;
  int32_t groups = tasks < threads ? tasks : threads;
  Job* job = groups > 1 ? own_job() : NULL;
  if (!job) return launch_serially(task, data, tasks);
  if (atomic_load_explicit(&worker_count, memory_order_relaxed) < groups - 1) grow(groups - 1);

  job->task = task;
  job->data = data;
  job->tasks = tasks;
  job->groups = groups;
  atomic_store_explicit(&job->finished, 0, memory_order_relaxed);
  atomic_store_explicit(&job->status, 0, memory_order_relaxed);
  uint64_t all = ~(uint64_t)0 >> (MAX_THREADS - groups);
  // The notice goes up before the groups open. The other way round, a late reader of the last notice could claim the last
  // group and take down a notice that is not up yet, and the one put up then would stay for ever.
  atomic_fetch_or(&posted, (uint64_t)1 << (job - jobs));
  atomic_store_explicit(&job->open, all & ~(uint64_t)1, memory_order_release);
  wake(groups - 1);

  caller.nested = 1;
  int status = run_group(job, 0);
  int32_t own = 1;
  // From the far end: a group of a low number has a worker that prefers it.
  for (int32_t group; (group = claim(job, groups - own)) >= 0; own++) status |= run_group(job, group);
  caller.nested = 0;
  caller.alone = own > 1 ? caller.alone + 1 : 0;
  if (caller.alone == PATIENCE) {
    caller.alone = 0;
    send_away(groups);
  }
  Wait wait = {0, 0};
  while (atomic_load_explicit(&job->finished, memory_order_acquire) != groups - own) wait_turn(&wait);
  return status | atomic_load_explicit(&job->status, memory_order_relaxed);
}

static void enter(int32_t threads) {
  caller.threads = threads < MAX_THREADS ? threads : MAX_THREADS;
  atomic_fetch_add_explicit(&callers, 1, memory_order_relaxed);
}

static void leave(void) {
  if (caller.job) {
    atomic_fetch_and(&owned, ~((uint64_t)1 << (caller.job - jobs)));
    caller.job = NULL;
  }
  caller.threads = 0;
  atomic_fetch_sub_explicit(&callers, 1, memory_order_relaxed);
}

static int32_t workers(void) { return atomic_load(&worker_count); }

const GraphcPool* graphc_pool(void) {
  static const GraphcPool pool = {GRAPHC_POOL_VERSION, launch, enter, leave, workers};
  return &pool;
}

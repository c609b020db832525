// What a machine's arithmetic and memory can do at best: fused multiply-adds in registers, and reading and copying blocks
// of memory. Built for the machine it runs on, with WIDTH the bytes of its vectors.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ACCUMULATORS = 12, LANES = WIDTH / sizeof(float) };
typedef float Vector __attribute__((vector_size(WIDTH)));

typedef struct {
  double seconds;  // how long to work
  Vector* from;    // NULL: arithmetic
  Vector* to;      // NULL: read only
  int64_t count;   // vectors
  _Atomic int* signal;  // 0: wait, 1: work, -1: give up
  double rate;     // operations or bytes per second
  Vector sink;
} Worker;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static Vector broadcast(float value) {
  Vector v;
  for (int lane = 0; lane < LANES; lane++) v[lane] = value;
  return v;
}

// Operations done.
static double multiply_add(Worker* worker) {
  enum { TURNS = 20000 };
  Vector sums[ACCUMULATORS], x = broadcast(0.9999f), y = broadcast(1e-4f);
  for (int i = 0; i < ACCUMULATORS; i++) sums[i] = broadcast((float)i);
  for (int turn = 0; turn < TURNS; turn++) {
#pragma GCC unroll 12
    for (int i = 0; i < ACCUMULATORS; i++) sums[i] = sums[i] * x + y;
  }
  for (int i = 0; i < ACCUMULATORS; i++) worker->sink += sums[i];
  return 2.0 * TURNS * ACCUMULATORS * LANES;
}

// Bytes read.
static double read_block(Worker* worker) {
  Vector sums[8] = {{0}};
  for (int64_t i = 0; i + 8 <= worker->count; i += 8) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) sums[j] += worker->from[i + j];
  }
  for (int j = 0; j < 8; j++) worker->sink += sums[j];
  return (double)(worker->count * WIDTH);
}

// Bytes read and written. Scaled on the way, or compilers would call the C library's copy.
static double copy_block(Worker* worker) {
  Vector scale = broadcast(0.5f);
  for (int64_t i = 0; i + 4 <= worker->count; i += 4) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) worker->to[i + j] = worker->from[i + j] * scale;
  }
  return 2.0 * (double)(worker->count * WIDTH);
}

static void* work(void* argument) {
  Worker* worker = argument;
  double (*turn)(Worker*) = !worker->from ? multiply_add : worker->to ? copy_block : read_block;
  turn(worker);
  int signal;
  while (!(signal = atomic_load(worker->signal))) sched_yield();
  if (signal < 0) return NULL;
  double done = 0, start = now(), stop = start;
  while (stop - start < worker->seconds) {
    // Small blocks take less time than looking at the clock.
    for (int64_t bytes = 0; bytes < 1 << 18; bytes += worker->from ? worker->count * WIDTH : 1 << 18) done += turn(worker);
    stop = now();
  }
  worker->rate = done / (stop - start);
  return NULL;
}

// Operations (bytes: 0) or bytes a second of all threads together; -1 where threads or memory cannot be had.
// `bytes` is what one thread goes through again and again: read, or half of it copied to the other half.
__attribute__((visibility("default"))) double roofline_rate(int threads, int64_t bytes, int copies, double seconds) {
  pthread_t* handles = calloc((size_t)threads, sizeof *handles);
  Worker* workers = NULL;
  char* memory = NULL;
  double total = -1;
  if (!handles || posix_memalign((void**)&workers, 64, (size_t)threads * sizeof *workers)) goto done;
  if (bytes && posix_memalign((void**)&memory, 4096, (size_t)(threads * bytes))) goto done;
  if (memory) memset(memory, 0, (size_t)(threads * bytes));
  _Atomic int signal = 0;
  for (int t = 0; t < threads; t++) {
    char* own = bytes ? memory + t * bytes : NULL;
    int64_t count = bytes / WIDTH / (copies ? 2 : 1);
    workers[t] = (Worker){seconds, (Vector*)own, bytes && copies ? (Vector*)own + count : NULL, count, &signal, 0, {0}};
  }
  int created = 1;
  while (created < threads && !pthread_create(&handles[created], NULL, work, &workers[created])) created++;
  atomic_store(&signal, created == threads ? 1 : -1);
  work(&workers[0]);
  for (int t = 1; t < created; t++) pthread_join(handles[t], NULL);
  if (created == threads) {
    total = 0;
    for (int t = 0; t < threads; t++) total += workers[t].rate;
  }
done:
  free(handles);
  free(workers);
  free(memory);
  return total;
}

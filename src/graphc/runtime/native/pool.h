// The thread pool that kernels' parallel loops run on. One per process: see pool.c.
#ifndef GRAPHC_POOL_H_
#define GRAPHC_POOL_H_

#include <stdint.h>

#define GRAPHC_EXPORT __attribute__((visibility("default")))

// What TVM's generated code passes and expects (tvm/runtime/c_backend_api.h).
typedef struct {
  void* sync_handle;
  int32_t num_task;
} GraphcEnvironment;
typedef int (*GraphcTask)(int task, GraphcEnvironment* environment, void* data);

// Grows only by a new version: libraries of several packages hand it to each other.
#define GRAPHC_POOL_VERSION 1
typedef struct {
  uint32_t version;
  // Runs `tasks` tasks (0: as many as this call may use threads), returns when all are done: the OR of their statuses.
  int (*launch)(GraphcTask task, void* data, int tasks);
  // A caller may use up to `threads` threads, itself counted, from here until leave().
  void (*enter)(int32_t threads);
  void (*leave)(void);
  // Worker threads alive, for tests and reports.
  int32_t (*workers)(void);
} GraphcPool;

// The pool compiled into this library.
GRAPHC_EXPORT const GraphcPool* graphc_pool(void);

#endif  // GRAPHC_POOL_H_

// What Python hands to the launcher, mirrored by graphc/runtime/abi.py; graphc_abi() says which version of it this is.
#pragma once
#include <stdint.h>

#include "pool.h"

#define GRAPHC_ABI 5

typedef struct {
  int64_t base;    // index into Call.bases
  int64_t offset;  // bytes
} Argument;

// A kernel call; or, where `kernel` is NULL, what control.c does.
typedef struct {
  void* kernel;
  const Argument* arguments;
  const int64_t* dims;
  int64_t argument_count;
} Step;

typedef struct {
  const Step* steps;
  int64_t first, last;  // the range of steps to run, end exclusive
  char** bases;
  // The call's arrays, whose data pointers become bases[first_array], ...: objects that hold the pointer at data_offset,
  // or the pointers themselves where data_offset is 0.
  const intptr_t* arrays;
  int64_t first_array, array_count, data_offset;
  int64_t threads;
  int64_t* stamps;  // NULL, or room for start and stop of every step in nanoseconds (CLOCK_MONOTONIC)
} Call;

// Zero, or index of the failed step in the upper and its status in the lower 32 bits.
GRAPHC_EXPORT int64_t graphc_run(const Call* call);

// Runs rows [first, last), stamping each where stamps is not NULL; the pool is entered. Answers as graphc_run.
int64_t graphc_rows(const Call* call, int64_t first, int64_t last, int64_t* stamps);

// Runs a row without kernel; answers as graphc_run.
int64_t graphc_control(const Call* call, int64_t row);

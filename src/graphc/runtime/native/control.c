// Rows of the table that decide which rows run: branches and loops, whose bodies are rows further on in the table.
//
// A loop tells its body where things lie by pointers in Call.bases, which it sets before each iteration: values that it
// carries alternate between two buffers, items of arrays that it scans or collects advance. So nothing is copied but the
// last values of an even number of iterations.
#include "launcher.h"

#include <string.h>

// What dims[0] of a row without kernel says; the rest of dims and the arguments are read below. Mirrored by abi.py.
enum { COPY, BRANCH, LOOP, RAISE };

// Positions in the dims and arguments of a loop.
enum { FIRST = 1, LAST, TRIPS, STATES, LANES, LISTS };
enum { LIMIT, CONDITION, COUNTER, GOING_ON, KEPT, PLACES };
enum { READ, WRITTEN, BYTES, STATE_DIMS };
enum { INITIAL, FINAL, SPARE, STATE_PLACES };
enum { SLOT, START, STRIDE, LANE_DIMS };

static char* place(const Call* call, const Step* step, int64_t number) {
  const Argument* argument = &step->arguments[number];
  return argument->base < 0 ? NULL : call->bases[argument->base] + argument->offset;
}

static int64_t run_loop(const Call* call, const Step* step) {
  const int64_t* dims = step->dims;
  const int64_t state_count = dims[STATES], lane_count = dims[LANES];
  const int64_t *states = dims + LISTS, *lanes = states + STATE_DIMS * state_count;
  const int64_t lane_places = PLACES + STATE_PLACES * state_count;
  const char *limit = place(call, step, LIMIT), *condition = place(call, step, CONDITION);
  char *counter = place(call, step, COUNTER), *going_on = place(call, step, GOING_ON), *kept = place(call, step, KEPT);
  int64_t trips = dims[TRIPS], wanted, done = 0;
  if (limit) {
    memcpy(&wanted, limit, sizeof wanted);
    if (wanted < trips) trips = wanted;
  }
  char going = condition ? *condition : 1;
  for (; going && done < trips; done++) {
    if (counter) memcpy(counter, &done, sizeof done);
    if (going_on) *going_on = going;
    for (int64_t s = 0; s < state_count; s++) {
      const int64_t *state = states + STATE_DIMS * s, first = PLACES + STATE_PLACES * s;
      char *even = place(call, step, first + FINAL), *odd = place(call, step, first + SPARE);
      call->bases[state[READ]] = done == 0 ? place(call, step, first + INITIAL) : done % 2 ? even : odd;
      call->bases[state[WRITTEN]] = done % 2 ? odd : even;
    }
    for (int64_t l = 0; l < lane_count; l++) {
      const int64_t* lane = lanes + LANE_DIMS * l;
      call->bases[lane[SLOT]] = place(call, step, lane_places + l) + lane[START] + done * lane[STRIDE];
    }
    int64_t result = graphc_rows(call, dims[FIRST], dims[LAST], NULL);
    if (result) return result;
    if (kept) going = *kept;
  }
  if (done % 2) return 0;
  for (int64_t s = 0; s < state_count; s++) {
    const int64_t first = PLACES + STATE_PLACES * s;
    memcpy(place(call, step, first + FINAL), place(call, step, first + (done ? SPARE : INITIAL)),
           (size_t)states[STATE_DIMS * s + BYTES]);
  }
  return 0;
}

int64_t graphc_control(const Call* call, int64_t row) {
  const Step* step = &call->steps[row];
  const int64_t* dims = step->dims;
  switch (dims[0]) {
    case COPY:
      memcpy(place(call, step, 1), place(call, step, 0), (size_t)dims[1]);
      return 0;
    case BRANCH:
      return *place(call, step, 0) ? graphc_rows(call, dims[1], dims[2], NULL) : graphc_rows(call, dims[3], dims[4], NULL);
    case LOOP:
      return run_loop(call, step);
  }
  return row << 32 | 1;
}

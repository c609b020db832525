// A libcuda.so.1 without a GPU. "Device memory" is the CPU's, kernels are the C functions below, named by cubins of text
// ("FAKECUBIN 80" and their names); those of real cubins are checked and do nothing. What is asynchronous runs as late as
// it may, at the next synchronization, so that who reads too early finds what lay there before. What a real driver would
// let pass or crash on (wild and misaligned pointers, pageable memory in an asynchronous copy, use after free) is noted as
// a violation, which the tests look at.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
       INVALID_CONTEXT = 201, NO_BINARY = 209, INVALID_IMAGE = 200, INVALID_HANDLE = 400, NOT_FOUND = 500,
       ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900 };
typedef int R;
typedef uint64_t u64;
enum { MAX_DEVICES = 4, MAX_PARAMETERS = 62, MAX_CALLS = 128 };

typedef enum { CONTEXT = 1, STREAM, EVENT, MODULE, GRAPH, EXEC, DEVICE_MEMORY, PINNED_MEMORY, KINDS } Kind;
typedef struct Object { struct Object* next; Kind kind; int live, device; } Object;
typedef struct { const char* name; const char* layout; } Entry;  // p pointer, i int32, l int64
typedef struct { Object head; int capability, retained; } Context;
typedef struct { Object head; char* start; size_t size; } Memory;
typedef struct { char name[256], layout[64]; unsigned threads; } Info;  // what a real cubin says of a function
typedef struct { Object head; char names[512]; Info* infos; int info_count; } Module;
typedef struct { const Entry* entry; Module* module; int shared_limit; unsigned threads; int launched; } Function;
typedef enum { COPY_STAGED, COPY_IN, COPY_OUT, COPY_WITHIN, SET, SET_WORDS, LAUNCH, RECORD, WAIT } OpKind;
struct Stream;
struct Event;
typedef struct {
  OpKind kind;
  char *to, *from;
  size_t size;
  int value;
  Function* function;
  unsigned grid[3], threads;
  u64 parameters[MAX_PARAMETERS + 2];
  struct Event* event;
  struct Stream* other;
  size_t position;
} Op;
typedef struct { Op* items; size_t count, room; } Ops;
typedef struct { Object head; Ops ops; } Graph;
typedef struct Stream { Object head; Ops ops; size_t done; Graph* capture; pthread_t capturing; } Stream;
typedef struct Event { Object head; Stream* stream; size_t position; long ticks; } Event;

static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static Object* objects;
static int device_count, capabilities[MAX_DEVICES], driver_version, initialized, sticky;
static size_t memory_limit[MAX_DEVICES], memory_used[MAX_DEVICES];
static Context* contexts[MAX_DEVICES];
static Stream legacy[MAX_DEVICES];
static __thread Context* stack[16];
static __thread int depth;
static pid_t owner;
static long ticks, launches;
static char violations[4096];
static struct { const char* name; long calls; int fail_in, code, times; } calls[MAX_CALLS];

static void violation(const char* format, ...) {
  va_list arguments;
  size_t length = strlen(violations);
  va_start(arguments, format);
  vsnprintf(violations + length, sizeof violations - length - 1, format, arguments);
  va_end(arguments);
  if ((length = strlen(violations)) < sizeof violations - 2) strcpy(violations + length, "\n");
}

static void unlock(int* held) { (void)held, pthread_mutex_unlock(&mutex); }

static R enter(const char* name) {
  if (owner && owner != getpid()) {
    violation("%s in a forked process", name);
    return NOT_INITIALIZED;
  }
  int i = 0;
  while (i < MAX_CALLS - 1 && calls[i].name && strcmp(calls[i].name, name)) i++;
  if (!calls[i].name) calls[i].name = strdup(name);
  calls[i].calls++;
  if (calls[i].fail_in > 0 && --calls[i].fail_in == 0) {
    calls[i].fail_in = --calls[i].times > 0;
    return calls[i].code;
  }
  if (!initialized && strcmp(name, "cuInit") && strcmp(name, "cuDriverGetVersion")) return NOT_INITIALIZED;
  return strncmp(name, "cuCtxP", 6) ? sticky : OK;
}
#define ENTER                                                        \
  __attribute__((cleanup(unlock))) int held = pthread_mutex_lock(&mutex); \
  R entered = enter(__func__);                                       \
  if (entered) return entered
#define NEEDS_CONTEXT \
  if (!depth || !stack[depth - 1]) return INVALID_CONTEXT
#define DEVICE (stack[depth - 1]->head.device)

static void* make(Kind kind, size_t size, int device) {
  Object* object = calloc(1, size);
  object->kind = kind, object->live = 1, object->device = device, object->next = objects;
  return objects = object;
}
static int valid(void* handle, Kind kind, const char* what) {
  for (Object* object = objects; object; object = object->next)
    if (object == handle) {
      if (object->kind == kind && object->live) return 1;
      violation("%s: used after it was freed, or another kind of object", what);
      return 0;
    }
  violation("%s: no such object", what);
  return 0;
}
static Memory* memory_at(const char* start, size_t size, Kind kind) {
  for (Object* object = objects; object; object = object->next) {
    Memory* memory = (Memory*)object;
    if (object->kind == kind && object->live && start >= memory->start && start + size <= memory->start + memory->size)
      return memory;
  }
  return NULL;
}
static void append(Ops* ops, Op op) {
  if (ops->count == ops->room) ops->items = realloc(ops->items, (ops->room = ops->room ? 2 * ops->room : 64) * sizeof op);
  ops->items[ops->count++] = op;
}

// Kernels: each gets its parameters and how many elements its grid covers.
static float* floats(u64 address, size_t count, const char* what) {
  if (memory_at((char*)address, count * sizeof(float), DEVICE_MEMORY)) return (float*)address;
  violation("%s reads or writes %zu bytes outside of device memory", what, count * sizeof(float));
  return NULL;
}
static void run_kernel(const Op* op) {
  const char* name = op->function->entry->name;
  const u64* p = op->parameters;
  size_t covered = (size_t)op->grid[0] * op->grid[1] * op->grid[2] * op->threads;
  launches++, ticks += 5;
#define COUNT(i) ((size_t)(int32_t)p[i] < covered ? (size_t)(int32_t)p[i] : covered)
  if (!strcmp(name, "add")) {
    size_t n = COUNT(3);
    float *x = floats(p[0], n, name), *y = floats(p[1], n, name), *z = floats(p[2], n, name);
    for (size_t i = 0; x && y && z && i < n; i++) z[i] = x[i] + y[i];
  } else if (!strcmp(name, "scale")) {
    size_t n = COUNT(2);
    float *x = floats(p[0], n, name), *y = floats(p[1], n, name);
    for (size_t i = 0; x && y && i < n; i++) y[i] = x[i] * (int32_t)p[3];
  } else if (!strcmp(name, "sum")) {
    size_t n = (size_t)(int32_t)p[2];
    float *x = floats(p[0], n, name), *y = floats(p[1], 1, name), total = 0;
    for (size_t i = 0; x && i < n; i++) total += x[i];
    if (y) *y = total;
  } else if (!strcmp(name, "gather")) {
    size_t n = COUNT(4);
    float *x = floats(p[0], p[5], name), *y = floats(p[2], n, name);
    int64_t* index = (int64_t*)floats(p[1], 2 * n, name);
    int32_t* status = (int32_t*)floats(p[3], 1, name);
    for (size_t i = 0; x && y && index && status && i < n; i++) {
      int64_t at = index[i];
      if (at < 0 || at >= (int64_t)p[5]) at = 0, *status = 3;
      y[i] = x[at];
    }
  } else if (!strcmp(name, "through")) {  // by way of its scratch memory
    size_t n = COUNT(2);
    float *x = floats(p[0], n, name), *y = floats(p[1], n, name), *scratch = floats(p[3], n, "scratch");
    for (size_t i = 0; x && scratch && i < n; i++) scratch[i] = x[i];
    for (size_t i = 0; y && scratch && i < n; i++) y[i] = scratch[i];
  } else if (!strcmp(name, "below")) {
    float* x = floats(p[0], 1, name);
    char* answer = memory_at((char*)p[1], 1, DEVICE_MEMORY) ? (char*)p[1] : NULL;
    if (x && answer) *answer = *x < (int32_t)p[2];
  } else if (!strcmp(name, "crash")) {
    sticky = ILLEGAL_ADDRESS;
  }
}
static const Entry entries[] = {{"add", "pppi"}, {"scale", "ppii"}, {"sum", "ppi"}, {"gather", "ppppil"},
                                {"through", "ppi"}, {"below", "ppi"}, {"crash", ""}};

static void drain(Stream* stream, size_t until);
static void execute(Op* op) {
  switch (op->kind) {
    case COPY_STAGED:
      if (memory_at(op->to, op->size, DEVICE_MEMORY)) memcpy(op->to, op->from, op->size);
      else violation("an upload of %zu bytes to what is no device memory", op->size);
      free(op->from);
      return;
    case COPY_IN:
    case COPY_OUT:
    case COPY_WITHIN:
      if (!memory_at(op->to, op->size, op->kind == COPY_OUT ? PINNED_MEMORY : DEVICE_MEMORY) ||
          !memory_at(op->from, op->size, op->kind == COPY_IN ? PINNED_MEMORY : DEVICE_MEMORY)) {
        violation("a copy of %zu bytes reads or writes memory that is freed or of another kind", op->size);
        return;
      }
      memmove(op->to, op->from, op->size), ticks++;
      return;
    case SET:
      if (memory_at(op->to, op->size, DEVICE_MEMORY)) memset(op->to, op->value, op->size);
      else violation("a fill of %zu bytes outside of device memory", op->size);
      return;
    case SET_WORDS:
      if (!memory_at(op->to, op->size, DEVICE_MEMORY)) violation("a fill of %zu bytes outside of device memory", op->size);
      else for (size_t i = 0; i < op->size / 4; i++) ((int*)op->to)[i] = op->value;
      return;
    case LAUNCH:
      if (!op->function->module->head.live) violation("a kernel runs after its module was unloaded");
      run_kernel(op);
      return;
    case RECORD:
      if (valid(op->event, EVENT, "a recorded event")) op->event->ticks = ticks;
      return;
    case WAIT:
      drain(op->other, op->position);
  }
}
static void drain(Stream* stream, size_t until) {
  while (stream->done < until && stream->done < stream->ops.count && !sticky) {
    Op op = stream->ops.items[stream->done++];
    execute(&op);
  }
  if (stream->done == stream->ops.count && !stream->capture) stream->done = 0, stream->ops.count = 0;
}
static Stream* stream_at(void* handle) {
  if ((u64)handle <= 2) return &legacy[DEVICE];
  return valid(handle, STREAM, "stream") ? handle : NULL;
}
static R enqueue(void* handle, Op op) {
  Stream* stream = stream_at(handle);
  if (!stream) return INVALID_HANDLE;
  append(stream->capture ? &stream->capture->ops : &stream->ops, op);
  return OK;
}
// What a thread must not do while it captures: the driver ends the capture with an error.
static int capturing(void) {
  for (Object* object = objects; object; object = object->next)
    if (object->kind == STREAM && object->live && ((Stream*)object)->capture &&
        pthread_equal(((Stream*)object)->capturing, pthread_self())) {
      violation("memory is allocated, code loaded or waited for during a capture");
      return 1;
    }
  return 0;
}

// What tests ask.
void fake_reset(int devices, const int* wanted, const size_t* memory) {
  pthread_mutex_lock(&mutex);
  device_count = devices, sticky = 0, violations[0] = 0, launches = 0, driver_version = 13000;
  for (int i = 0; i < devices; i++) capabilities[i] = wanted[i], memory_limit[i] = memory[i];
  for (int i = 0; i < MAX_CALLS; i++) calls[i].calls = calls[i].fail_in = 0;
  pthread_mutex_unlock(&mutex);
}
void fake_limit(size_t memory) { memory_limit[0] = memory; }
void fake_recover(void) { sticky = 0; }
void fake_driver(int version) { driver_version = version; }
void fake_fail(const char* name, int nth, int code, int times) {
  int i = 0;
  while (i < MAX_CALLS - 1 && calls[i].name && strcmp(calls[i].name, name)) i++;
  if (!calls[i].name) calls[i].name = strdup(name);
  calls[i].fail_in = nth, calls[i].code = code, calls[i].times = times;
}
long fake_calls(const char* name) {
  for (int i = 0; i < MAX_CALLS && calls[i].name; i++)
    if (!strcmp(calls[i].name, name)) return calls[i].calls;
  return 0;
}
const char* fake_violations(void) { return violations; }
long fake_launches(void) { return launches; }
size_t fake_used(int device) { return memory_used[device]; }
int fake_live(int kind) {
  int count = 0;
  for (Object* object = objects; object; object = object->next) count += object->kind == (Kind)kind && object->live;
  return count;
}

// Another library's array: device memory that it fills in a stream of its own, or the default one, when that is reached.
typedef struct { Memory *memory, *source; Stream* stream; } Foreign;
Foreign* fake_foreign(int device, int own_stream, const char* data, size_t size) {
  Foreign* foreign = calloc(1, sizeof *foreign);
  foreign->memory = make(DEVICE_MEMORY, sizeof(Memory), device);
  foreign->source = make(PINNED_MEMORY, sizeof(Memory), device);
  foreign->memory->size = foreign->source->size = size, memory_used[device] += size;
  if (posix_memalign((void**)&foreign->memory->start, 512, size)) abort();
  memset(foreign->memory->start, 0xCD, size);
  foreign->source->start = memcpy(malloc(size), data, size);
  if (own_stream) foreign->stream = make(STREAM, sizeof(Stream), device);
  append(own_stream ? &foreign->stream->ops : &legacy[device].ops,
         (Op){.kind = COPY_IN, .to = foreign->memory->start, .from = foreign->source->start, .size = size});
  return foreign;
}
void* fake_foreign_address(Foreign* foreign) { return foreign->memory->start; }
void* fake_foreign_stream(Foreign* foreign) { return foreign->stream; }
void fake_foreign_free(Foreign* foreign) {
  foreign->memory->head.live = foreign->source->head.live = 0;
  if (foreign->stream) foreign->stream->head.live = 0;
  memory_used[foreign->memory->head.device] -= foreign->memory->size;
  memset(foreign->memory->start, 0xDD, foreign->memory->size);
}

R cuInit(unsigned flags) {
  ENTER;
  if (flags) return INVALID_VALUE;
  if (!device_count) return NO_DEVICE;
  initialized = 1, owner = getpid();
  return OK;
}
R cuDriverGetVersion(int* version) { ENTER; return *version = driver_version, OK; }
R cuDeviceGetCount(int* count) { ENTER; return *count = device_count, OK; }
R cuDeviceGet(int* device, int ordinal) {
  ENTER;
  return ordinal < 0 || ordinal >= device_count ? INVALID_DEVICE : (*device = ordinal, OK);
}
R cuDeviceGetName(char* name, int length, int device) { ENTER; return snprintf(name, length, "Fake GPU %d", device), OK; }
R cuDeviceTotalMem(size_t* bytes, int device) { ENTER; return *bytes = memory_limit[device], OK; }
static int shared_limit(int device) {
  int capability = capabilities[device];
  return capability == 90 ? 232448 : capability == 80 ? 166912 : 101376;
}
R cuDeviceGetAttribute(int* value, int attribute, int device) {
  ENTER;
  *value = attribute == 75   ? capabilities[device] / 10
           : attribute == 76 ? capabilities[device] % 10
           : attribute == 97 ? shared_limit(device)
           : attribute == 16 ? 132
                             : 0;
  return OK;
}
R cuDevicePrimaryCtxRetain(Context** context, int device) {
  ENTER;
  if (!contexts[device] || !contexts[device]->head.live) contexts[device] = make(CONTEXT, sizeof(Context), device);
  contexts[device]->retained++;
  return *context = contexts[device], OK;
}
R cuDevicePrimaryCtxRelease(int device) {
  ENTER;
  if (!contexts[device] || !contexts[device]->retained) return INVALID_CONTEXT;
  if (!--contexts[device]->retained) contexts[device]->head.live = 0;
  return OK;
}
R cuCtxPushCurrent(Context* context) {
  ENTER;
  if (!valid(context, CONTEXT, "context")) return INVALID_CONTEXT;
  return stack[depth++] = context, OK;
}
R cuCtxPopCurrent(Context** context) {
  ENTER;
  NEEDS_CONTEXT;
  return *context = stack[--depth], OK;
}
R cuCtxSynchronize(void) {
  ENTER;
  NEEDS_CONTEXT;
  if (capturing()) return CAPTURE_UNSUPPORTED;
  for (Object* object = objects; object; object = object->next)
    if (object->kind == STREAM && object->live) drain((Stream*)object, -1);
  return sticky;
}
static R allocate(char** start, size_t size, Kind kind) {
  if (capturing()) return CAPTURE_UNSUPPORTED;
  if (!size) return INVALID_VALUE;
  if (kind == DEVICE_MEMORY && memory_used[DEVICE] + size > memory_limit[DEVICE]) return OUT_OF_MEMORY;
  Memory* memory = make(kind, sizeof *memory, DEVICE);
  if (posix_memalign((void**)&memory->start, 512, size)) abort();
  memset(memory->start, 0xCD, memory->size = size);
  if (kind == DEVICE_MEMORY) memory_used[DEVICE] += size;
  return *start = memory->start, OK;
}
static R release(char* start, Kind kind) {
  if (capturing()) return CAPTURE_UNSUPPORTED;
  Memory* memory = memory_at(start, 1, kind);
  if (!memory || memory->start != start) {
    violation("memory is freed that is not allocated");
    return INVALID_VALUE;
  }
  // As the driver: what still runs is waited for.
  for (Object* object = objects; object; object = object->next)
    if (object->kind == STREAM && object->live && !((Stream*)object)->capture) drain((Stream*)object, -1);
  memory->head.live = 0;
  if (kind == DEVICE_MEMORY) memory_used[memory->head.device] -= memory->size;
  memset(memory->start, 0xDD, memory->size);
  free(memory->start);
  return OK;
}
R cuMemAlloc(char** start, size_t size) { ENTER; NEEDS_CONTEXT; return allocate(start, size, DEVICE_MEMORY); }
R cuMemHostAlloc(char** start, size_t size, unsigned flags) { ENTER; NEEDS_CONTEXT; return (void)flags, allocate(start, size, PINNED_MEMORY); }
R cuMemFree(char* start) { ENTER; NEEDS_CONTEXT; return release(start, DEVICE_MEMORY); }
R cuMemFreeHost(char* start) { ENTER; NEEDS_CONTEXT; return release(start, PINNED_MEMORY); }
R cuPointerGetAttribute(int* value, int attribute, char* pointer) {
  ENTER;
  Memory* memory = memory_at(pointer, 1, DEVICE_MEMORY);
  return !memory || attribute != 9 ? INVALID_VALUE : (*value = memory->head.device, OK);
}
R cuMemGetInfo(size_t* left, size_t* total) {
  ENTER;
  NEEDS_CONTEXT;
  return *total = memory_limit[DEVICE], *left = *total - memory_used[DEVICE], OK;
}
R cuMemcpyHtoD(char* to, const char* from, size_t size) {
  ENTER;
  NEEDS_CONTEXT;
  if (capturing()) return CAPTURE_UNSUPPORTED;
  if (!memory_at(to, size, DEVICE_MEMORY)) return violation("a copy to what is no device memory"), INVALID_VALUE;
  // From pageable memory: read now, written when the legacy stream comes to it.
  char* staged = malloc(size);
  memcpy(staged, from, size);
  append(&legacy[DEVICE].ops, (Op){.kind = COPY_STAGED, .to = to, .from = staged, .size = size});
  return OK;
}
R cuMemcpyDtoH(char* to, const char* from, size_t size) {
  ENTER;
  NEEDS_CONTEXT;
  if (capturing()) return CAPTURE_UNSUPPORTED;
  // Of the legacy stream: it waits for no stream that was made non-blocking.
  drain(&legacy[DEVICE], -1);
  if (!memory_at(from, size, DEVICE_MEMORY)) return violation("a copy from what is no device memory"), INVALID_VALUE;
  return memcpy(to, from, size), OK;
}
R cuMemcpyHtoDAsync(char* to, char* from, size_t size, void* stream) {
  ENTER;
  if (!memory_at(from, size, PINNED_MEMORY)) violation("an asynchronous copy from pageable memory");
  return enqueue(stream, (Op){.kind = COPY_IN, .to = to, .from = from, .size = size});
}
R cuMemcpyDtoHAsync(char* to, char* from, size_t size, void* stream) {
  ENTER;
  if (!memory_at(to, size, PINNED_MEMORY)) violation("an asynchronous copy to pageable memory");
  return enqueue(stream, (Op){.kind = COPY_OUT, .to = to, .from = from, .size = size});
}
R cuMemcpyDtoDAsync(char* to, char* from, size_t size, void* stream) {
  ENTER;
  return enqueue(stream, (Op){.kind = COPY_WITHIN, .to = to, .from = from, .size = size});
}
R cuMemsetD8Async(char* to, unsigned char value, size_t size, void* stream) {
  ENTER;
  return enqueue(stream, (Op){.kind = SET, .to = to, .size = size, .value = value});
}
R cuMemsetD32Async(char* to, unsigned value, size_t count, void* stream) {
  ENTER;
  if ((u64)to % 4) violation("a misaligned fill");
  return enqueue(stream, (Op){.kind = SET_WORDS, .to = to, .size = 4 * count, .value = (int)value});
}
R cuStreamCreate(Stream** stream, unsigned flags) {
  ENTER;
  NEEDS_CONTEXT;
  if (flags != 1) violation("a stream that waits for the legacy stream");
  return *stream = make(STREAM, sizeof(Stream), DEVICE), OK;
}
R cuStreamDestroy(Stream* stream) {
  ENTER;
  if (!valid(stream, STREAM, "stream")) return INVALID_HANDLE;
  drain(stream, -1);
  return stream->head.live = 0, OK;
}
R cuStreamSynchronize(void* handle) {
  ENTER;
  Stream* stream = stream_at(handle);
  if (!stream) return INVALID_HANDLE;
  if (capturing()) return CAPTURE_UNSUPPORTED;
  drain(stream, -1);
  return sticky;
}
R cuStreamWaitEvent(void* handle, Event* event, unsigned flags) {
  ENTER;
  if (!valid(event, EVENT, "event") || flags) return INVALID_HANDLE;
  Stream* stream = stream_at(handle);
  if (!stream) return INVALID_HANDLE;
  if (stream->capture) return violation("a capture waits for what is not in it"), CAPTURE_UNSUPPORTED;
  return event->stream ? enqueue(handle, (Op){.kind = WAIT, .other = event->stream, .position = event->position}) : OK;
}
R cuEventCreate(Event** event, unsigned flags) {
  ENTER;
  NEEDS_CONTEXT;
  return (void)flags, *event = make(EVENT, sizeof(Event), DEVICE), OK;
}
R cuEventDestroy(Event* event) { ENTER; return valid(event, EVENT, "event") ? (event->head.live = 0, OK) : INVALID_HANDLE; }
static R record(Event* event, void* handle, unsigned flags) {
  Stream* stream = stream_at(handle);
  if (!stream || !valid(event, EVENT, "event")) return INVALID_HANDLE;
  if (stream->capture && flags != 1) return violation("an event in a capture that nobody outside sees"), INVALID_VALUE;
  R result = enqueue(handle, (Op){.kind = RECORD, .event = event});
  if (!stream->capture) event->stream = stream, event->position = stream->ops.count;
  return result;
}
R cuEventRecord(Event* event, void* stream) { ENTER; return record(event, stream, 0); }
R cuEventRecordWithFlags(Event* event, void* stream, unsigned flags) { ENTER; return record(event, stream, flags); }
R cuEventElapsedTime(float* milliseconds, Event* from, Event* to) {
  ENTER;
  if (!valid(from, EVENT, "event") || !valid(to, EVENT, "event")) return INVALID_HANDLE;
  return *milliseconds = (to->ticks - from->ticks) * 1e-3f, OK;
}
// Of a real cubin, the parameters that its functions take and the threads that they were compiled for: sections
// .nv.info.NAME, attributes EIATTR_KPARAM_INFO (0x17) and EIATTR_REQNTID (0x10). Its kernels are checked, and do nothing.
static void read_cubin(Module* module, const char* image) {
  const Elf64_Ehdr* header = (const Elf64_Ehdr*)image;
  const Elf64_Shdr* sections = (const Elf64_Shdr*)(image + header->e_shoff);
  const char* names = image + sections[header->e_shstrndx].sh_offset;
  module->infos = calloc(header->e_shnum, sizeof(Info));
  for (int s = 0; s < header->e_shnum; s++) {
    const char* name = names + sections[s].sh_name;
    if (strncmp(name, ".nv.info.", 9)) continue;
    Info* info = &module->infos[module->info_count++];
    snprintf(info->name, sizeof info->name, "%s", name + 9);
    const unsigned char *at = (const unsigned char*)image + sections[s].sh_offset, *end = at + sections[s].sh_size;
    while (at + 4 <= end) {
      unsigned size = at[0] == 4 ? at[2] | at[3] << 8 : 0, words[3];
      if (at[1] == 0x17 && size == 12) {
        memcpy(words, at + 4, 12);
        info->layout[words[1] & 0xFFFF] = words[2] >> 18 == 4 ? 'i' : words[2] >> 18 == 8 ? 'l' : '?';
      }
      if (at[1] == 0x10 && size == 12) memcpy(&info->threads, at + 4, 4);
      at += 4 + size;
    }
    size_t count = strlen(info->layout);
    if (count < 2) violation("%s: its cubin says nothing of its parameters", info->name);
    else info->layout[count - 2] = 0;  // the two hidden pointers
  }
}
R cuModuleLoadData(Module** module, const char* image) {
  ENTER;
  NEEDS_CONTEXT;
  int capability = 0, length = 0;
  if (capturing()) return CAPTURE_UNSUPPORTED;
  if (!memcmp(image, "\177ELF", 4)) {
    *module = make(MODULE, sizeof(Module), DEVICE);
    return read_cubin(*module, image), OK;
  }
  if (sscanf(image, "FAKECUBIN %d%n", &capability, &length) != 1) return INVALID_IMAGE;
  int here = capabilities[DEVICE];
  if (capability >= 90 ? capability != here : capability / 10 != here / 10 || capability > here) return NO_BINARY;
  *module = make(MODULE, sizeof(Module), DEVICE);
  snprintf((*module)->names, sizeof (*module)->names, "%s ", image + length);
  return OK;
}
R cuModuleUnload(Module* module) { ENTER; return valid(module, MODULE, "module") ? (module->head.live = 0, OK) : INVALID_HANDLE; }
R cuModuleGetFunction(Function** function, Module* module, const char* name) {
  ENTER;
  char word[80];
  if (!valid(module, MODULE, "module")) return INVALID_HANDLE;
  snprintf(word, sizeof word, " %s ", name);
  for (int i = 0; i < module->info_count; i++)
    if (!strcmp(module->infos[i].name, name)) {
      Entry* entry = calloc(1, sizeof *entry);
      *entry = (Entry){module->infos[i].name, module->infos[i].layout};
      *function = calloc(1, sizeof **function);
      **function = (Function){entry, module, 49152, module->infos[i].threads, 0};
      return OK;
    }
  for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
    if (!strcmp(entries[i].name, name) && strstr(module->names, word)) {
      *function = calloc(1, sizeof **function);
      **function = (Function){&entries[i], module, 49152, 0, 0};
      return OK;
    }
  return NOT_FOUND;
}
R cuFuncGetParamInfo(Function* function, size_t index, size_t* offset, size_t* size) {
  ENTER;
  const char* layout = function->entry->layout;
  size_t count = strlen(layout) + 2, at = 0;
  if (index >= count) return INVALID_VALUE;
  for (size_t i = 0;; i++) {
    size_t width = i + 2 < count && layout[i] == 'i' ? 4 : 8;
    at = (at + width - 1) / width * width;
    if (i == index) return *offset = at, *size = width, OK;
    at += width;
  }
}
R cuFuncSetAttribute(Function* function, int attribute, int value) {
  ENTER;
  if (attribute != 8 || value > shared_limit(function->module->head.device)) return INVALID_VALUE;
  return function->shared_limit = value, OK;
}
static R launch(Function* f, const unsigned* grid, const unsigned* block, unsigned shared, void* stream, void** given) {
  Op op = {.kind = LAUNCH, .function = f, .threads = block[0]};
  const char *name = f->entry->name, *layout = f->entry->layout;
  if (!valid(f->module, MODULE, name)) return INVALID_HANDLE;
  if (!block[0] || block[0] > 1024 || block[0] % 32 || block[1] != 1 || block[2] != 1) return INVALID_VALUE;
  if (!grid[0] || !grid[1] || !grid[2] || grid[1] > 65535 || grid[2] > 65535) return INVALID_VALUE;
  if ((int)shared > f->shared_limit) return INVALID_VALUE;
  if (f->threads && f->threads != block[0]) return violation("%s: %u threads", name, block[0]), INVALID_VALUE;
  Stream* target = stream_at(stream);
  // The driver may load a function when it is launched first, which it must not in a capture.
  if (target && target->capture && !f->launched) violation("%s: launched in a capture before it was launched at all", name);
  f->launched |= target && !target->capture;
  memcpy(op.grid, grid, sizeof op.grid);
  size_t count = strlen(layout);
  for (size_t i = 0; i < count + 2; i++) {
    op.parameters[i] = i < count && layout[i] == 'i' ? (u64)(int64_t)*(int32_t*)given[i] : *(u64*)given[i];
    // A number that large is an address: a cubin does not tell the two apart.
    int pointer = i >= count || layout[i] == 'p' || (layout[i] == 'l' && op.parameters[i] >> 32);
    if (!pointer) continue;
    if (!op.parameters[i] && i >= count) continue;
    if (op.parameters[i] % 16) violation("%s: pointer %zu is misaligned", name, i);
    if (!memory_at((char*)op.parameters[i], 1, DEVICE_MEMORY)) violation("%s: pointer %zu is wild", name, i);
  }
  return enqueue(stream, op);
}
R cuLaunchKernel(Function* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                 void* stream, void** given, void** extra) {
  ENTER;
  NEEDS_CONTEXT;
  return (void)extra, launch(f, (unsigned[]){gx, gy, gz}, (unsigned[]){bx, by, bz}, shared, stream, given);
}
typedef struct { unsigned grid[3], block[3], shared; void* stream; struct { int id, pad; unsigned x, y, z; char rest[52]; }* attributes; unsigned count; } Config;
R cuLaunchKernelEx(const Config* config, Function* f, void** given, void** extra) {
  ENTER;
  NEEDS_CONTEXT;
  for (unsigned i = 0; i < config->count; i++)
    if (config->attributes[i].id == 4 && config->grid[0] % config->attributes[i].x) return INVALID_VALUE;
  return (void)extra, launch(f, config->grid, config->block, config->shared, config->stream, given);
}
R cuStreamBeginCapture(Stream* stream, int mode) {
  ENTER;
  NEEDS_CONTEXT;
  if (!valid(stream, STREAM, "stream")) return INVALID_HANDLE;
  if (mode != 1) violation("a capture that other threads disturb");
  stream->capture = make(GRAPH, sizeof(Graph), DEVICE), stream->capturing = pthread_self();
  return OK;
}
R cuStreamEndCapture(Stream* stream, Graph** graph) {
  ENTER;
  if (!valid(stream, STREAM, "stream") || !stream->capture) return INVALID_VALUE;
  *graph = stream->capture, stream->capture = NULL;
  return OK;
}
R cuGraphInstantiateWithFlags(Graph** exec, Graph* graph, u64 flags) {
  ENTER;
  NEEDS_CONTEXT;
  if (!valid(graph, GRAPH, "graph") || flags) return INVALID_VALUE;
  *exec = make(EXEC, sizeof(Graph), DEVICE);
  for (size_t i = 0; i < graph->ops.count; i++) append(&(*exec)->ops, graph->ops.items[i]);
  return OK;
}
R cuGraphDestroy(Graph* graph) { ENTER; return valid(graph, GRAPH, "graph") ? (graph->head.live = 0, OK) : INVALID_HANDLE; }
R cuGraphExecDestroy(Graph* exec) { ENTER; return valid(exec, EXEC, "graph") ? (exec->head.live = 0, OK) : INVALID_HANDLE; }
R cuGraphUpload(Graph* exec, Stream* stream) { ENTER; return (void)stream, valid(exec, EXEC, "graph") ? OK : INVALID_HANDLE; }
R cuGraphLaunch(Graph* exec, Stream* stream) {
  ENTER;
  if (!valid(exec, EXEC, "graph")) return INVALID_HANDLE;
  for (size_t i = 0; i < exec->ops.count; i++) {
    R result = enqueue(stream, exec->ops.items[i]);
    if (result) return result;
  }
  return OK;
}
static R unsupported(void) { return 801; }
R cuGetProcAddress_v2(const char* name, void** found, int version, u64 flags, int* status) {
  static const char* const renamed[][2] = {{"cuGetProcAddress", "cuGetProcAddress_v2"},
                                           {"cuGraphInstantiate", "cuGraphInstantiateWithFlags"}};
  Dl_info info;
  (void)version, (void)flags;
  for (size_t i = 0; i < sizeof renamed / sizeof *renamed; i++)
    if (!strcmp(name, renamed[i][0])) name = renamed[i][1];
  dladdr((void*)cuGetProcAddress_v2, &info);
  void* self = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  *found = self && dlsym(self, name) ? dlsym(self, name) : (void*)unsupported;
  if (status) *status = 0;
  return OK;
}
R cuGetProcAddress(const char* name, void** found, int version, u64 flags) {
  return cuGetProcAddress_v2(name, found, version, flags, NULL);
}

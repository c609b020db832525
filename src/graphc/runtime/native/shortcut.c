// A call from Python without Python's bytecode: checks the inputs, allocates the outputs, runs the table.
//
// It takes the arguments of one program's usual call and answers None for everything else (other shapes, other types, a
// second call in flight), which then goes the long way. graphc/runtime/shortcut.py makes a built-in function of it. The
// functions used are of CPython's stable ABI and of NumPy's C API and come as pointers, so that a package is bound to no
// version of either; the layout of objects and arrays is checked by shortcut.py before this is used.
#include <stddef.h>
#include <stdint.h>

#include "launcher.h"

typedef struct Object Object;  // PyObject

typedef struct {
  intptr_t references;
  Object* type;
} Head;

typedef struct {  // PyArrayObject_fields
  Head head;
  char* data;
  int rank;
  const intptr_t* shape;
  const intptr_t* strides;
  Object* base;
  Object* dtype;
  int flags;
} ArrayObject;

typedef struct {
  void (*incref)(Object*);
  void (*decref)(Object*);
  Object* (*dict_new)(void);
  Object* (*dict_get)(Object* dict, Object* key);  // borrowed; NULL where there is none
  intptr_t (*dict_size)(Object* dict);
  int (*dict_set)(Object* dict, Object* key, Object* value);
  Object* (*list_get)(Object* list, intptr_t index);  // borrowed
  intptr_t (*list_size)(Object* list);
  Object* (*tuple_get)(Object* tuple, intptr_t index);  // borrowed
  intptr_t (*tuple_size)(Object* tuple);
  void (*clear_error)(void);
  void* (*release_gil)(void);
  void (*acquire_gil)(void*);
  // PyArray_NewFromDescr, which takes over a reference to `dtype`.
  Object* (*array_new)(Object* type, Object* dtype, int rank, const intptr_t* shape, const intptr_t* strides, void* data,
                       int flags, Object* like);
  Object *none, *dict_type, *list_type, *tuple_type, *array_type;
} Interpreter;

typedef struct {
  Object* name;
  Object* dtype;
  int64_t rank;
  const int64_t* shape;
  const char* value;  // what a parameter must hold; NULL where anything will do
  int64_t value_bytes;
} Input;

typedef struct {
  Object* name;
  Object* dtype;
  int64_t rank;
  const intptr_t* shape;
} Output;

typedef struct {
  Call call;  // its arrays are inputs, then outputs
  const Interpreter* python;
  const Input* inputs;
  const Output* outputs;
  int64_t input_count, output_count;
  intptr_t* arrays;  // call.arrays
  int64_t ready;     // array flags that kernels need
  int64_t brief;     // the kernels are done sooner than another thread could make use of the interpreter
  int64_t busy;      // guarded by the interpreter's lock
} Shortcut;

static inline Object* type_of(Object* object) { return ((Head*)object)->type; }

static Object* input_of(const Interpreter* python, Object* given, const Input* input, int64_t index) {
  Object* type = type_of(given);
  if (type == python->dict_type) return python->dict_get(given, input->name);
  return type == python->list_type ? python->list_get(given, index) : python->tuple_get(given, index);
}

static int64_t count_of(const Interpreter* python, Object* given) {
  Object* type = type_of(given);
  if (type == python->dict_type) return python->dict_size(given);
  if (type == python->list_type) return python->list_size(given);
  if (type == python->tuple_type) return python->tuple_size(given);
  return -1;
}

static int fits(const Shortcut* shortcut, Object* object, const Input* input) {
  if (!object || type_of(object) != shortcut->python->array_type) return 0;
  const ArrayObject* array = (const ArrayObject*)object;
  if (array->dtype != input->dtype || array->rank != input->rank) return 0;
  for (int64_t axis = 0; axis < input->rank; axis++)
    if (array->shape[axis] != input->shape[axis]) return 0;
  if ((array->flags & shortcut->ready) != shortcut->ready) return 0;
  for (int64_t i = 0; input->value && i < input->value_bytes; i++)
    if (array->data[i] != input->value[i]) return 0;
  return 1;
}

// The outputs by name, their arrays noted in the call; NULL if there is no memory for them.
static Object* new_outputs(Shortcut* shortcut) {
  const Interpreter* python = shortcut->python;
  Object* outputs = python->dict_new();
  for (int64_t i = 0; outputs && i < shortcut->output_count; i++) {
    const Output* output = &shortcut->outputs[i];
    python->incref(output->dtype);
    Object* array =
        python->array_new(python->array_type, output->dtype, (int)output->rank, output->shape, NULL, NULL, 0, NULL);
    int failed = !array || python->dict_set(outputs, output->name, array);
    if (array) python->decref(array);  // the dictionary has it now
    if (failed) {
      python->decref(outputs);
      return NULL;
    }
    shortcut->arrays[shortcut->input_count + i] = (intptr_t)array;
  }
  return outputs;
}

// METH_FASTCALL of `inputs`; `self` is an array of bytes that begins with the Shortcut and keeps alive what it points to.
GRAPHC_EXPORT Object* graphc_shortcut(Object* self, Object* const* arguments, intptr_t count) {
  Shortcut* shortcut = (Shortcut*)((ArrayObject*)self)->data;
  const Interpreter* python = shortcut->python;
  Object* outputs = NULL;
  if (!shortcut->busy && count == 1 && count_of(python, arguments[0]) == shortcut->input_count) {
    // From here on: allocating and freeing objects may run other Python code, which may call this again.
    shortcut->busy = 1;
    int64_t held = 0;
    for (; held < shortcut->input_count; held++) {
      Object* array = input_of(python, arguments[0], &shortcut->inputs[held], held);
      if (!fits(shortcut, array, &shortcut->inputs[held])) break;
      // Another thread may empty the dictionary while the interpreter's lock is not held.
      python->incref(array);
      shortcut->arrays[held] = (intptr_t)array;
    }
    if (held == shortcut->input_count) outputs = new_outputs(shortcut);
    if (outputs) {
      void* state = shortcut->brief ? NULL : python->release_gil();
      int64_t status = graphc_run(&shortcut->call);
      if (state) python->acquire_gil(state);
      if (status) {
        python->decref(outputs);
        outputs = NULL;
      }
    }
    while (held) python->decref((Object*)shortcut->arrays[--held]);
    shortcut->busy = 0;
  }
  if (outputs) return outputs;
  // The long way says what is wrong.
  python->clear_error();
  python->incref(python->none);
  return python->none;
}

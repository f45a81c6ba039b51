/* What the executable itself has to know of a network configuration.

   Rules
   1. Six keys of the outermost object count, the last of each where there are more. null is the same as absent.
   2. A document that is not valid as a whole says nothing: of its faults the agent tells.
   3. Valid is what Python's `json` takes for it, as forward.py has that: NaN and Infinity are numbers, a whole number
      has at most 4300 digits, text is strict UTF-8. Nesting is bounded.
   4. One pass, no recursion, no memory of its own: the document may be hostile. */

#ifndef HOTNIC_CONFIG_H
#define HOTNIC_CONFIG_H

#include "text.h"

enum Kind { ABSENT, STRING, NUMBER, BOOLEAN, LIST, OBJECT };

/* A value; where it is a string, `start` and `end` are its inside, still escaped; of an object they are all of its
   text, and of a boolean `start` is. */
struct Value {
    enum Kind kind;
    const Byte *start, *end;
};

struct Config {
    struct Value run_dir, agent, cni_version, device, require, previous;
};

/* Read the configuration; all of it is ABSENT where the document is not valid. */
struct Config config_read(const Byte *document, size_t size);

/* Whether the value is this string. */
bool value_is(const struct Value *value, const char *text);

/* Whether the value is false, or none. */
bool value_is_unset(const struct Value *value);

#endif

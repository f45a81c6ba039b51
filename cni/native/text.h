/* Text as JSON has it: UTF-8 in, ASCII with escapes out. */

#ifndef HOTNIC_TEXT_H
#define HOTNIC_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef unsigned char Byte;

#define NO_CODE_POINT UINT32_MAX

/* Return the code point at `*at` and step over it.
   Of bytes that are no UTF-8, step over as many as one U+FFFD stands for, and return NO_CODE_POINT. */
uint32_t utf8_next(const Byte **at, const Byte *end);

/* Return the next code point of the inside of a JSON string, and step over it, escapes and surrogate pairs resolved.
   A surrogate that has no partner is returned as it is. The string was checked, and its quotation mark follows. */
uint32_t json_next(const Byte **at, const Byte *end);

/* Write a code point as the inside of a JSON string has it, ASCII only; return its length. */
size_t json_escape(uint32_t code_point, char escaped[12]);

/* Write a code point as UTF-8, '?' for a surrogate without partner; return its length. */
size_t utf8_encode(uint32_t code_point, char encoded[4]);

#endif

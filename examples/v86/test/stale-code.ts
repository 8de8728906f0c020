// A program for the guest that the disk writes code for, into one and the same page: an emulator that does not notice
// goes on with what it compiled from the code before.

const BLOCK_BYTES = 4096
const ORIGIN = 0x8048000
const HEADERS_BYTES = 0x54
const MEMORY_BYTES = 0x4000
const PAGE = ORIGIN + 0x2000
/** Often enough to be compiled. */
const ROUNDS = 1_000_000

/** Blocks of code: each returns its number, from 1 on, after it has counted to a million. */
export function codeBlocks (count: number): Buffer {
  const blocks = Buffer.alloc(count * BLOCK_BYTES, 0x90)
  for (let block = 0; block < count; block++) {
    Buffer.from([
      0xb9, ...word(ROUNDS), //    mov ecx, ROUNDS
      0xb8, ...word(block + 1), // again: mov eax, block + 1
      0x49, //                     dec ecx
      0x75, byte(-8), //           jnz again
      0xc3 //                      ret
    ]).copy(blocks, block * BLOCK_BYTES)
  }
  return blocks
}

/** An i386 program that reads each block of a file by direct I/O, calls it, and ends with the sum of what they return. */
export function callBlocks (path: string, count: number): Buffer {
  const name = Buffer.from(`${path}\0`)
  return executable(name, Buffer.from([
    0xb8, ...word(5), //                       mov eax, SYS_open
    0xbb, ...word(ORIGIN + HEADERS_BYTES), //  mov ebx, name
    0xb9, ...word(0x4000), //                  mov ecx, O_RDONLY | O_DIRECT
    0xcd, 0x80, //                             int 0x80
    0x89, 0xc6, //                             mov esi, eax
    0x31, 0xff, //                             xor edi, edi
    0xbd, ...word(count), //                   mov ebp, count
    0xb8, ...word(3), //                       next: mov eax, SYS_read
    0x89, 0xf3, //                             mov ebx, esi
    0xb9, ...word(PAGE), //                    mov ecx, PAGE
    0xba, ...word(BLOCK_BYTES), //             mov edx, BLOCK_BYTES
    0xcd, 0x80, //                             int 0x80
    0xb8, ...word(PAGE), //                    mov eax, PAGE
    0xff, 0xd0, //                             call eax
    0x01, 0xc7, //                             add edi, eax
    0x4d, //                                   dec ebp
    0x75, byte(-31), //                        jnz next
    0x89, 0xfb, //                             mov ebx, edi
    0xb8, ...word(1), //                       mov eax, SYS_exit
    0xcd, 0x80 //                              int 0x80
  ]))
}

/** An ELF file with one segment, which may be read, written and executed, and has room for PAGE. See elf(5). */
function executable (data: Buffer, code: Buffer): Buffer {
  const bytes = HEADERS_BYTES + data.length + code.length
  const headers = [
    0x464c457f, 0x00010101, 0, 0, // 32-bit, little-endian
    0x00030002, 1, ORIGIN + HEADERS_BYTES + data.length, 52, 0, 0, 0x00200034, 1, 0,
    1, 0, ORIGIN, ORIGIN, bytes, MEMORY_BYTES, 7, BLOCK_BYTES
  ]
  return Buffer.concat([Buffer.from(headers.flatMap(word)), data, code])
}

function word (value: number): number[] {
  return [value & 255, value >> 8 & 255, value >> 16 & 255, value >>> 24]
}

function byte (value: number): number {
  return value & 255
}

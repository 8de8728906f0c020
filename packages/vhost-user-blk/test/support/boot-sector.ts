// Guests of 512 bytes, for PCs with a serial port at 0x3f8. Code runs at 0x7c00 with the boot drive in DL.

const ORIGIN = 0x7c00

function bootSector (code: number[], data: Uint8Array): Uint8Array {
  const sector = new Uint8Array(512)
  sector.set(code)
  sector.set(data, code.length)
  sector.set([0x55, 0xaa], 510)
  return sector
}

/** Writes its message to the serial port, then has the keyboard controller reset the machine. */
export function printing (message: string): Uint8Array {
  const code = [
    0xfc, 0x31, 0xc0, 0x8e, 0xd8, // cld; xor ax, ax; mov ds, ax
    0xbe, 0x1b, ORIGIN >> 8, // mov si, message
    0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, // next: lodsb; test al, al; jz done; out dx, al; jmp next
    0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd, 0x90 // done: mov al, 0xfe; out 0x64, al; stop: hlt; jmp stop
  ]
  return bootSector(code, Buffer.from(message))
}

/** Reads 4 KiB off its disk again and again: a dot on the serial port for each time, and `!` for the error that ends it. */
export function reading (): Uint8Array {
  const code = [
    0xfc, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, ORIGIN >> 8, // cld; xor ax, ax; mov ds, ax; mov ss, ax; mov sp, origin
    0xb4, 0x42, 0xbe, 0x28, ORIGIN >> 8, 0xcd, 0x13, // next: mov ah, 0x42; mov si, packet; int 0x13
    0x72, 0x0a, // jc failed
    0x52, 0xb0, 0x2e, 0xba, 0xf8, 0x03, 0xee, 0x5a, // push dx; mov al, '.'; mov dx, 0x3f8; out dx, al; pop dx
    0xeb, 0xed, // jmp next
    0xb0, 0x21, 0xba, 0xf8, 0x03, 0xee, 0xf4, // failed: mov al, '!'; mov dx, 0x3f8; out dx, al; hlt
    0x90, 0x90, 0x90, 0x90
  ]
  // The packet: its size, 8 sectors, to 0x8000, from sector 1 on.
  return bootSector(code, Uint8Array.of(16, 0, 8, 0, 0x00, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0))
}

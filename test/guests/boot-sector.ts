import { closeSync, openSync, writeSync } from 'node:fs'

const TEXT_SECTORS = 8

/**
 * Makes the image bootable: SeaBIOS loads its first sector, which asks SeaBIOS for the sectors after it, prints
 * these up to a zero byte on the serial line, and powers the machine off.
 */
export function writeBootSector (image: string, text: string): void {
  const disk = Buffer.alloc(512 * (1 + TEXT_SECTORS))
  program.copy(disk)
  disk.writeUInt16LE(0xaa55, 510)
  disk.write(text, 512)
  const file = openSync(image, 'r+')
  writeSync(file, disk, 0, disk.length, 0)
  closeSync(file)
}

// 16-bit code, loaded to 0:7c00; dl is the drive's number.
const program = Buffer.from([
  0x31, 0xc0, //             xor ax, ax
  0x8e, 0xd8, //             mov ds, ax
  0xbe, 0x2e, 0x7c, //       mov si, packet
  0xb4, 0x42, //             mov ah, 42h: extended read
  0xcd, 0x13, //             int 13h
  0x72, 0x18, //             jc off
  0xbe, 0x00, 0x80, //       mov si, 8000h
  0xac, //             next: lodsb
  0x88, 0xc4, //             mov ah, al
  0xba, 0xfd, 0x03, //       mov dx, 3fdh: the serial port's status
  0xec, //             wait: in al, dx
  0xa8, 0x40, //             test al, 40h: all is sent
  0x74, 0xfb, //             jz wait
  0xba, 0xf8, 0x03, //       mov dx, 3f8h: its data
  0x88, 0xe0, //             mov al, ah
  0xee, //                   out dx, al
  0x84, 0xc0, //             test al, al
  0x75, 0xeb, //             jnz next
  0xba, 0x04, 0x06, // off:  mov dx, 604h: power management of QEMU's q35
  0xb8, 0x00, 0x20, //       mov ax, 2000h: sleep state 5
  0xef, //                   out dx, ax
  0xeb, 0xfe, //             jmp $
  0x10, 0x00, //     packet: its size,
  TEXT_SECTORS, 0x00, //     how many sectors,
  0x00, 0x80, 0x00, 0x00, // to where (0:8000),
  1, 0, 0, 0, 0, 0, 0, 0 //  and from which sector
])

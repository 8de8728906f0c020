import { koffi } from './library.ts'
import { MAP_ANONYMOUS, MAP_PRIVATE, mmap, mprotect, munmap, PAGE_SIZE, PROT_EXEC, PROT_READ, viewMemory } from './memory.ts'

type Prefetch = (iovecs: number, count: number) => void

// The only instructions of this project that are its own: neither JavaScript nor the C library can say this to a processor.
/** By `process.arch`, as the System V ABI calls it: the list in rdi, how many in esi. */
const code: Readonly<Record<string, readonly number[]>> = {
  x64: [
    0x85, 0xf6, //             test esi, esi
    0x74, 0x0e, //             jz end
    0x48, 0x8b, 0x07, //       next: mov rax, [rdi]
    0x0f, 0x18, 0x08, //       prefetcht0 [rax]
    0x48, 0x83, 0xc7, 0x10, // add rdi, 16
    0xff, 0xce, //             dec esi
    0x75, 0xf2, //             jnz next
    0xc3 //                    end: ret
  ]
}

let bound: Prefetch | undefined

/**
 * Has the processor fetch where each of a list of ranges begins, all at once: its page's translation, and its first cache
 * line. A hint: it changes nothing, waits for nothing, and an address that cannot be read is no fault. Does nothing where the
 * processor is no x86-64, or where the system forbids memory to be executed.
 *
 * @param iovecs address of an array of `struct iovec`, which is read: see `readv(2)`.
 * @param count of its elements, 0 to 2^32 - 1
 */
export function prefetch (iovecs: number, count: number): void {
  bound ??= bind()
  bound(iovecs, count)
}

const doNothing: Prefetch = () => {}

function bind (): Prefetch {
  const instructions = code[process.arch]
  return (instructions && makeFunction(instructions)) ?? doNothing
}

/** @returns undefined where the system allows nobody to execute what they wrote */
function makeFunction (instructions: readonly number[]): Prefetch | undefined {
  const address = mmap({ length: PAGE_SIZE, flags: MAP_PRIVATE | MAP_ANONYMOUS })
  new Uint8Array(viewMemory(address, PAGE_SIZE)).set(instructions)
  // Never writable and executable at once.
  if (mprotect(address, PAGE_SIZE, PROT_READ | PROT_EXEC) < 0) {
    munmap(address, PAGE_SIZE)
    return undefined
  }
  // Each thread has a page of its own: of a process whose threads come and go, they would become many.
  process.once('exit', () => {
    bound = doNothing
    munmap(address, PAGE_SIZE)
  })
  return koffi().decode(BigInt(address), koffi().proto('void (uintptr_t iovecs, uint32_t count)')) as Prefetch
}

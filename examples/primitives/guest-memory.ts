// npm install @node-vmm/hostmem
// Guest memory: two regions with a hole in between, in a file that other processes map; and a guest that lies.
import { GuestMemory } from '@node-vmm/hostmem'
import { execFileSync } from 'node:child_process'
import { closeSync } from 'node:fs'

const MIB = 1 << 20
const HIGH = 0x100000000
const hex = (address: number): string => `0x${address.toString(16)}`

// As a PC has it: memory below 4 GiB, the hole for devices, the rest of the memory above.
const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0, size: 16 * MIB }, { guestAddress: HIGH, size: 16 * MIB }])
for (const { guestAddress, size, hostAddress } of memory.regions) {
  console.log(`guest ${hex(guestAddress)}: ${size / MIB} MiB, here at ${hex(hostAddress)}`)
}

// It is a memfd. Whoever is given the descriptor sees what the guest writes: this is how a disk can be another process.
memory.write(HIGH + 4096, Buffer.from('written at 4 GiB + 4 KiB'))
const seen = execFileSync('dd', ['bs=4096', 'skip=4097', 'count=1', 'status=none'], { stdio: [fd, 'pipe', 'inherit'] })
console.log('another process reads:', seen.toString('utf8', 0, 24))
closeSync(fd)

// What a guest says is looked up with its length and the access that is wanted. 0 means: do not touch that.
const lookups: Array<[string, number, number]> = [
  ['a good buffer', 0x1000, 512],
  ['over the end of memory', 16 * MIB - 256, 512],
  ['in the hole', 0x80000000, 512],
  ['so long that it wraps', HIGH, Number.MAX_SAFE_INTEGER]
]
for (const [what, address, length] of lookups) {
  console.log(`${what}: ${memory.translate(address, length, true) === 0 ? 'refused' : 'found'}`)
}

// A map never changes. Memory is unplugged by a new map: whoever has the old one still may use it.
const smaller = memory.without(memory.regions[1]!)
console.log(`new requests see ${smaller.regions.length} region, those in flight ${memory.regions.length}`)
memory.release()
smaller.release() // the last holder unmaps

import assert from 'node:assert/strict'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { suite } from 'uvu'
import { addSeals, close, F_SEAL_GROW, F_SEAL_SHRINK, fallocate, fileStatus, ftruncate, memfdCreate, NativeMemory, O_RDONLY, open, pwritev } from '@node-vmm/libc'
import { FileMap, PUNCH_HOLE } from '@node-vmm/ioq'
import { scratchFile } from './support.ts'

const test = suite('FileMap')
const PAGE = 4096
/** Pages that are mapped at once. */
const CHUNK = 64
let file: ReturnType<typeof scratchFile>
test.before.each(() => { file = scratchFile('/dev/shm') })
test.after.each(() => file.remove())

/** Writes bytes that nobody looks at. */
function fill (offset: number, length: number): void {
  const memory = new NativeMemory(length + 16)
  memory.setUint64(length, memory.address)
  memory.setUint64(length + 8, length)
  assert.equal(pwritev(file.fd, memory.address + length, 1, offset), length)
  memory.close()
}

function withMap (use: (map: FileMap) => void): void {
  const map = FileMap.create(file.fd)
  try {
    use(map)
  } finally {
    map.close()
  }
}

test('what is there may be read, a hole may not', () => {
  ftruncate(file.fd, 2 * CHUNK * PAGE)
  fill(3 * PAGE, 2 * PAGE)
  withMap((map) => {
    assert.equal(map.mayRead(3, 5), true)
    assert.equal(map.mayRead(4, 5), true)
    assert.equal(map.mayRead(2, 3), false)
    assert.equal(map.mayRead(3, 6), false, 'the last one is a hole')
    assert.equal(map.mayRead(CHUNK, CHUNK + 1), false)
    assert.equal(map.mayRead(1e12, 1e12 + 1), false, 'there is no such address')
  })
})

test('a file without holes may be read anywhere, and to ask takes no memory', () => {
  fill(0, 2 * CHUNK * PAGE)
  const before = fileStatus(file.fd).allocated
  withMap((map) => {
    for (let page = 0; page < 2 * CHUNK; page += 64) assert.equal(map.mayRead(page, page + 64), true)
    assert.equal(map.mayRead(2 * CHUNK, 2 * CHUNK + 1), false, 'past its end')
  })
  assert.equal(fileStatus(file.fd).allocated, before)
})

test('bug: the first request of each part had the kernel look through the rest of a file without holes, whose pages are known when it is mapped', () => {
  const pages = 2 * CHUNK + 5
  fill(0, pages * PAGE)
  withMap((map) => {
    // Nobody asks, or it would be told of this.
    assert.equal(fallocate(file.fd, PUNCH_HOLE, 0, pages * PAGE), 0)
    assert.equal(map.mayRead(0, pages), true)
    assert.equal(map.mayRead(pages, pages + 1), false)
  })
})

test('what may be written may be read after it; only whole pages of the file may', () => {
  ftruncate(file.fd, 4 * PAGE + 512)
  withMap((map) => {
    assert.equal(map.mayRead(1, 2), false)
    assert.equal(map.mayWrite(1, 3), true)
    assert.equal(map.mayRead(1, 3), true)
    assert.equal(map.mayRead(3, 4), false)
    assert.equal(map.mayWrite(4, 5), false, 'the file ends in it')
    assert.equal(map.mayWrite(3, 5), false)
    ftruncate(file.fd, 6 * PAGE)
    assert.equal(map.mayWrite(4, 6), true, 'it has grown')
    assert.equal(map.mayWrite(4, 7), false)
  })
})

test('a file that was cut is not whole, until it has what is left', () => {
  ftruncate(file.fd, 4 * PAGE)
  withMap((map) => {
    assert.equal(map.isWhole(), true)
    ftruncate(file.fd, 4 * PAGE - 1)
    assert.equal(map.isWhole(), false)
    assert.equal(map.isWhole(), true, 'three pages of it')
    assert.equal(map.mayWrite(3, 4), false)
    ftruncate(file.fd, 0)
    assert.equal(map.isWhole(), false)
  })
})

test('a hole that is made is not read any more', () => {
  const bytes = 200 * PAGE
  fill(0, bytes)
  for (const [first, last] of [[1, 2], [3, 40], [31, 32], [32, 96], [64, 65], [70, 160], [100, 200]] as const) {
    fill(0, bytes)
    withMap((map) => {
      assert.equal(map.mayRead(0, 200), true)
      map.remove(first, last)
      assert.equal(fallocate(file.fd, PUNCH_HOLE, first * PAGE, (last - first) * PAGE), 0)
      for (let page = 0; page < 200; page++) {
        assert.equal(map.mayRead(page, page + 1), page < first || page >= last, `page ${page} of ${first} to ${last}`)
      }
    })
  }
})

test('a hole as large as the map is made at once', () => {
  ftruncate(file.fd, 2 ** 40)
  withMap((map) => {
    const pages = 2 ** 40 / PAGE
    assert.equal(map.mayWrite(pages - 1, pages), true)
    assert.equal(map.mayRead(pages - 1, pages), true)
    map.remove(0, 2 ** 41)
    assert.equal(map.mayRead(pages - 1, pages), false)
  })
})

test('what one thread knows the others know', () => {
  ftruncate(file.fd, CHUNK * PAGE)
  withMap((map) => {
    const other = FileMap.attach(structuredClone(map.data))
    map.mayWrite(0, 1)
    assert.equal(other.mayRead(0, 1), true, 'written')
    other.remove(0, 1)
    assert.equal(map.mayRead(0, 1), false, 'given back')
  })
})

test('a file that may only be read is mapped so, a sealed one as well', () => {
  fill(0, PAGE)
  const readOnly = open(file.path, O_RDONLY)
  FileMap.create(readOnly).close()
  close(readOnly)
  const memfd = memfdCreate('sealed')
  ftruncate(memfd, PAGE)
  addSeals(memfd, F_SEAL_GROW | F_SEAL_SHRINK)
  FileMap.create(memfd).close()
  close(memfd)
})

test('what is not in memory is refused, and what is too large', () => {
  const folder = mkdtempSync(`${tmpdir()}/node-vmm-ioq-`)
  const onDisk = openSync(`${folder}/file`, 'w+')
  const device = openSync('/dev/zero', 'r+')
  try {
    for (const fd of [onDisk, device]) {
      assert.throws(() => FileMap.create(fd), { name: 'LinuxError', code: 'ENODEV', message: /Only files in memory/ })
    }
  } finally {
    closeSync(device)
    closeSync(onDisk)
    rmSync(folder, { recursive: true })
  }
  ftruncate(file.fd, 2 ** 40 + 1)
  assert.throws(() => FileMap.create(file.fd), { name: 'LinuxError', code: 'EFBIG' })
  assert.throws(() => FileMap.create(1_000_000), { name: 'LinuxError', code: 'EBADF' })
})

test('no mapping is left when it is disposed of', () => {
  const map = FileMap.create(file.fd)
  assert.ok(readFileSync('/proc/self/maps', 'utf8').includes(file.path))
  map[Symbol.dispose]()
  assert.ok(!readFileSync('/proc/self/maps', 'utf8').includes(file.path))
})

test.run()

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { openSync, closeSync } from 'node:fs'
import { suite } from 'uvu'
import { close, eventfd, NativeMemory, read, unixSocketPair, watchReadable, write } from '@node-vmm/libc'
import { eventually } from '../../../test/support/eventually.ts'

const test = suite('watchReadable')
const delay = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds))

test('calls back as long as the descriptor is readable, and not once closed', async () => {
  const fd = eventfd()
  const memory = new NativeMemory(8)
  let calls = 0
  const watch = watchReadable(fd, () => {
    calls++
    if (calls === 3) read(fd, memory.address, 8)
  })
  await delay(20)
  assert.equal(calls, 0)
  memory.setUint64(0, 1)
  write(fd, memory.address, 8)
  await eventually('it calls back three times', () => calls === 3)
  memory.setUint64(0, 1)
  write(fd, memory.address, 8)
  watch.close()
  watch.close()
  await delay(20)
  assert.equal(calls, 3)
  close(fd)
  memory.close()
})

test('lives as long as it is open, garbage collected or not', async () => {
  const fd = eventfd()
  const memory = new NativeMemory(8)
  let calls = 0
  const watch = watchReadable(fd, () => {
    calls++
    read(fd, memory.address, 8)
  })
  let garbage: unknown[] = []
  for (let round = 0; round < 20; round++) {
    garbage = Array.from({ length: 100_000 }, () => ({ round }))
    await delay(1)
  }
  assert.equal(garbage.length, 100_000)
  memory.setUint64(0, 1)
  write(fd, memory.address, 8)
  await eventually('it calls back', () => calls === 1)
  watch.close()
  close(fd)
  memory.close()
})

test('tells that the peer hung up', async () => {
  const [one, other] = unixSocketPair({ nonBlocking: true })
  let watch: ReturnType<typeof watchReadable> | undefined
  const told = new Promise<void>((resolve) => {
    watch = watchReadable(one, () => {
      watch!.close()
      resolve()
    })
  })
  close(other)
  await told
  close(one)
})

test('promises made in the callback run at once', async () => {
  const fd = eventfd(1)
  const ran: string[] = []
  await new Promise<void>((resolve) => {
    const watch = watchReadable(fd, () => {
      watch.close()
      setImmediate(() => {
        ran.push('the next turn')
        resolve()
      })
      void Promise.resolve().then(() => ran.push('the promise'))
    })
  })
  assert.deepEqual(ran, ['the promise', 'the next turn'])
  close(fd)
})

test('what cannot be watched is an error, not the end of the process', async () => {
  assert.throws(() => watchReadable(1_000_000, () => {}), { name: 'LinuxError', code: 'EBADF' })
  const file = openSync('/etc/passwd', 'r')
  assert.throws(() => watchReadable(file, () => {}), { code: 'EPERM' })
  closeSync(file)
  const fd = eventfd()
  const watch = watchReadable(fd, () => {})
  assert.throws(() => watchReadable(fd, () => {}), { code: 'EEXIST', message: /watched already/ })
  watch.close()
  watchReadable(fd, () => {}).close()
  await delay(1)
  close(fd)
})

test('a watch that is open when the process ends does not abort it, though its descriptor is readable', () => {
  const program = `import { close, unixSocketPair, watchReadable } from ${JSON.stringify(new URL('../src/index.ts', import.meta.url).href)}
    const [one, other] = unixSocketPair()
    watchReadable(one, () => {}).unref()
    close(other)`
  const { status, signal, stderr } = spawnSync(process.execPath, ['--import', new URL('../../../tools/ts.mjs', import.meta.url).href,
    '--input-type=module', '--eval', program], { encoding: 'utf8', timeout: 60_000 })
  assert.deepEqual([status, signal, stderr], [0, null, ''])
})

test.run()

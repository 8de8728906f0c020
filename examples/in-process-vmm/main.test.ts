import { equal, match } from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'

const main = fileURLToPath(new URL('main.ts', import.meta.url))

test('the guest writes to the image and reads it back, without any socket', () => {
  const image = join(tmpdir(), `in-process-vmm-test-${process.pid}.img`)
  writeFileSync(image, '')
  truncateSync(image, 4 << 20)
  try {
    const { status, stdout, stderr } = spawnSync(process.execPath, [...process.execArgv, main, image], { encoding: 'utf8', timeout: 120_000 })
    equal(status, 0, stderr)
    match(stdout, /4194304 bytes/)
    match(stdout, /paused: no request is in flight \[ 0 \]/)
    match(stdout, /the guest read back: written by the guest/)
    match(stdout, /3 requests, 3 interrupts/)
    equal(readFileSync(image).subarray(2048 * 512).toString('latin1', 0, 20), 'written by the guest')
  } finally {
    rmSync(image)
  }
})

test.run()

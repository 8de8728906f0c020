import { ok } from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { readFileSync, writeFileSync, openSync, closeSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import { eventually } from '../../../test/support/eventually.ts'
import { cleanUp, temporaryFolder } from '../../../test/support/temporary.ts'
import { createOverlay } from '../src/overlay-create.ts'
import { overlay } from '../src/overlay.ts'
import { randomNumbers } from '../src/random.ts'
import { pattern, read } from './support/model.ts'

const CHILD = fileURLToPath(new URL('support/kill-child.ts', import.meta.url))
const LOADER = fileURLToPath(new URL('../../../tools/ts.mjs', import.meta.url))
const BYTES = 256 << 10

test.after.each(cleanUp)

for (let seed = 1; seed <= 8; seed++) {
  test(`a process that is killed loses nothing that was flushed, again and again (seed ${seed})`, async () => {
    const folder = temporaryFolder()
    const file = join(folder, 'vm.ovl')
    const base = pattern(BYTES, seed)
    writeFileSync(join(folder, 'base.img'), base)
    await createOverlay({ base: join(folder, 'base.img'), file, clusterSize: 4096 })
    const random = randomNumbers(seed)
    let content = base
    for (let round = 0; round < 3; round++) {
      const log = join(folder, `log${round}`)
      await runAndKill(file, log, Math.floor(random() * 2 ** 31), 50 + Math.floor(random() * 1500))
      content = await check(file, allowedBy(log, content), `seed ${seed}, round ${round}`)
    }
  })
}

/** @param lines how many are to be told before it is killed */
async function runAndKill (file: string, log: string, seed: number, lines: number): Promise<void> {
  const output = openSync(log, 'w')
  const child = spawn(process.execPath, ['--import', LOADER, '--conditions=@node-vmm/source', CHILD, file, String(seed)], { stdio: ['ignore', output, 'inherit'] })
  const ended = new Promise((resolve) => child.on('exit', resolve))
  closeSync(output)
  try {
    await eventually('the child has done enough', () => child.exitCode !== null || readFileSync(log, 'utf8').split('\n').length > lines)
    ok(child.exitCode === null, 'the child works until it is killed')
  } finally {
    child.kill('SIGKILL')
    await ended
  }
}

/** What each sector may have, by what the child told: what it had at the last flush, and all that was begun later. */
function allowedBy (log: string, content: Buffer): Buffer[][] {
  const allowed = Array.from({ length: BYTES / 512 }, (_, sector) => [{ bytes: content.subarray(sector * 512, (sector + 1) * 512), isComplete: true }])
  let flushing: number[] = []
  for (const [what, sector, seed] of readFileSync(log, 'utf8').split('\n').map((line) => line.split(' '))) {
    const writes = allowed[Number(sector)]
    if (what === 'begin') writes!.push({ bytes: seed === '0' ? Buffer.alloc(512) : pattern(512, Number(seed)), isComplete: false })
    else if (what === 'end') writes!.at(-1)!.isComplete = true
    else if (what === 'flush') flushing = allowed.map((writes) => writes.findLastIndex(({ isComplete }) => isComplete))
    else if (what === 'flushed') flushing.forEach((index, sector) => allowed[sector]!.splice(0, index))
  }
  return allowed.map((writes) => writes.map(({ bytes }) => bytes))
}

async function check (file: string, allowed: Buffer[][], title: string): Promise<Buffer> {
  const disk = await overlay({ file })
  const content = await read(disk, 0, BYTES)
  await disk.close!()
  allowed.forEach((contents, sector) => {
    const found = content.subarray(sector * 512, (sector + 1) * 512)
    ok(contents.some((bytes) => bytes.equals(found)), `${title}: sector ${sector} has what it never had since the last flush`)
  })
  return content
}

test.run()

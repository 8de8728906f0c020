import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { limited } from '../src/limited-log.ts'

const test = suite('limited-log')
const DAY = 24 * 3600 * 1000

function logAt (): { lines: string[], log: (line: string) => void, pass: (milliseconds: number) => void } {
  const lines: string[] = []
  let now = 1000
  return { lines, log: limited((line) => lines.push(line), () => now), pass: (milliseconds) => { now += milliseconds } }
}

test('what is normal passes as it is', () => {
  const { lines, log, pass } = logAt()
  for (let session = 0; session < 1000; session++) {
    log(`${session} connected`)
    log(`${session} ended`)
    pass(20_000)
  }
  assert.equal(lines.length, 2000)
  assert.equal(lines.at(-1), '999 ended')
})

test('a storm is cut off, and it is told how many lines were left out', () => {
  const { lines, log, pass } = logAt()
  for (let line = 0; line < 1000; line++) log(`line ${line}`)
  assert.equal(lines.length, 128)
  assert.equal(lines.at(-1), 'line 127')
  pass(10_000)
  log('after it')
  log('too early')
  assert.deepEqual(lines.splice(128), ['872 more were left out here', 'after it'])
  pass(DAY)
  log('the next day')
  assert.deepEqual(lines.splice(128), ['1 more were left out here', 'the next day'])
})

test('who comes back for ever gets two lines in ten seconds at most, not the disk', () => {
  const { lines, log, pass } = logAt()
  for (let second = 0; second < 5 * 24 * 3600; second++) {
    for (let line = 0; line < 3; line++) log('a front-end connected')
    pass(1000)
  }
  // One in ten seconds, each with the number of those left out.
  const days = 5
  assert.ok(lines.length >= days * DAY / 10_000 && lines.length <= 128 + 2 * days * DAY / 10_000 + 2, `${lines.length} lines`)
})

test.run()

import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { test } from 'uvu'
import { readConfig } from '../src/config.ts'
import { newPath } from './support/scratch.ts'

const file = newPath()

function read (text: string): string[][] {
  writeFileSync(file, text)
  return readConfig(file)
}

test('each disk is what it would be on a command line', () => {
  assert.deepEqual(read('{"disks":[{"name":"a","num-queues":2,"packed":true,"direct":false},{"disk":{"type":"ram","capacity":512}}]}'), [
    ['--name=a', '--num-queues=2', '--packed'], ['--disk={"type":"ram","capacity":512}']
  ])
})

test('what is no configuration is refused, with where', () => {
  for (const [text, message] of [
    ['{', /JSON/],
    ['[]', /an object is needed/],
    ['{}', /"disks" is a list of at least one disk$/],
    ['{"disks":{}}', /"disks" is a list/],
    ['{"disks":[{}],"sandbox":true}', /"sandbox" is unknown: only "disks" is/],
    ['{"disks":["x"]}', /disks\[0\] is no object$/],
    ['{"disks":[{},{"cpus":[1]}]}', /disks\[1\]\.cpus is no text, number or flag$/],
    ['{"disks":[{"serial":null}]}', /disks\[0\]\.serial is no text/]
  ] as const) assert.throws(() => read(text), message)
  assert.throws(() => readConfig(newPath()), /ENOENT/)
})

test.run()

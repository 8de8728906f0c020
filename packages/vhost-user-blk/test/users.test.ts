import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { suite } from 'uvu'
import { parseAccount } from '../src/users.ts'
import { newPath } from './support/scratch.ts'

const test = suite('users')
const [passwd, group] = [newPath(), newPath()]
writeFileSync(passwd, 'root:x:0:0:root:/root:/bin/sh\nguest:x:1001:1002::/:/bin/false\n\n7:x:70:71:a name of digits:/:/bin/false\n')
writeFileSync(group, 'root:x:0:\nkvm:x:104:guest,other\n')

const parse = (text: string): unknown => parseAccount(text, passwd, group)

test('users and groups are known by name or number, and a user by its own group', () => {
  assert.deepEqual(parse('guest'), { uid: 1001, primaryGid: 1002 })
  assert.deepEqual(parse('guest:kvm'), { uid: 1001, gid: 104, primaryGid: 1002 })
  assert.deepEqual(parse('1001:5'), { uid: 1001, gid: 5, primaryGid: 1002 })
  assert.deepEqual(parse('0:kvm'), { uid: 0, gid: 104, primaryGid: 0 })
  // Whom no file knows has a number all the same, and no group of its own.
  assert.deepEqual(parse('4242'), { uid: 4242 })
  assert.deepEqual(parse('4294967294:4294967294'), { uid: 4294967294, gid: 4294967294 })
  // Digits are a number.
  assert.deepEqual(parse('7'), { uid: 7 })
})

test('what is neither is refused, with what would do', () => {
  assert.throws(() => parse('nobody-here'), { message: `no user "nobody-here" in ${passwd}: give its number if another directory has it` })
  assert.throws(() => parse('guest:disk'), { message: `no group "disk" in ${group}: give its number if another directory has it` })
  // The number that means "unchanged", and what is beyond.
  for (const text of ['4294967295', '99999999999']) assert.throws(() => parse(text), { message: `a user has a number up to 4294967294: not ${text}` })
  assert.throws(() => parse('0:4294967295'), { message: 'a group has a number up to 4294967294: not 4294967295' })
  for (const text of ['', ':', ':kvm', 'guest:', 'guest:kvm:x']) assert.throws(() => parse(text), { message: `USER or USER:GROUP, names or numbers: not ${JSON.stringify(text)}` })
  for (const text of ['-1', '1.5', ' guest']) assert.throws(() => parse(text), { message: /^no user / })
})

test.run()

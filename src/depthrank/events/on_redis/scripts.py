"""What runs inside the server, so that it is atomic. Keys (after the prefix) are listed in docs/events.md.

A user's rows are one string of 32-byte rows (``depthrank.events.history.ROW``) in (time_ms, log position) order.
"""

from __future__ import annotations

ROWS_A_BLOCK = 512  # positions per hash of the log

_SHARED = """
local p = KEYS[1]
local meta = p .. ':meta'
local ROW, HEAD = '<i8i8i8i4i2I2', '<i8i8i8i8i8i8'
local NO_KEY = string.rep('\\0', 16)
local function block_of(position) return math.floor(position / 512) end
local function block_key(block) return p .. ':log:' .. string.format('%.0f', block) end
"""

# ARGV: for each event user, item, action, time_ms, appended_ms, record (the first 16 bytes: event key or zeros),
# position or -1.
# Returns the position of each event, -1 for duplicates.
APPEND = (
    _SHARED
    + """
local function code_of(kind, id)
  local code = redis.call('HGET', p .. ':' .. kind .. 's', id)
  if not code then
    code = redis.call('HINCRBY', meta, 'next_' .. kind, 1) - 1
    redis.call('HSET', p .. ':' .. kind .. 's', id, code)
    redis.call('HSET', p .. ':' .. kind .. '_ids', code, id)
  end
  redis.call('HINCRBY', p .. ':' .. kind .. '_uses', code, 1)
  return tonumber(code)
end

local function insert_late(key, row, time)
  local low, high = 0, redis.call('STRLEN', key) / 32
  while low < high do
    local middle = math.floor((low + high) / 2)
    local at = struct.unpack('<i8', redis.call('GETRANGE', key, middle * 32, middle * 32 + 7))
    if at <= time then low = middle + 1 else high = middle end
  end
  redis.call('SETRANGE', key, low * 32, row .. redis.call('GETRANGE', key, low * 32, -1))
end

local function add_row(user, row, time, appended, position)
  local key, packed = p .. ':h:' .. user, redis.call('HGET', p .. ':users', user)
  local events, epoch, first, last, newest = 0, 0, time, time, appended
  if packed then
    local _
    events, _, epoch, first, last, newest = struct.unpack(HEAD, packed)
  end
  if not packed or time < last then epoch = redis.call('HINCRBY', meta, 'next_epoch', 1) end
  if packed and time < last then insert_late(key, row, time) else redis.call('APPEND', key, row) end
  local head = struct.pack(HEAD, events + 1, position, epoch,
                           math.min(first, time), math.max(last, time), math.max(newest, appended))
  redis.call('HSET', p .. ':users', user, head)
end

local result, appended_events = {}, 0
local next_position = tonumber(redis.call('HGET', meta, 'next_position') or '0')
for i = 1, #ARGV / 7 do
  local a = 7 * (i - 1)
  local user, item, action, time, appended = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], tonumber(ARGV[a + 4]), ARGV[a + 5]
  local record, at, key = ARGV[a + 6], tonumber(ARGV[a + 7]), string.sub(ARGV[a + 6], 1, 16)
  appended = tonumber(appended)
  if at < 0 then at = next_position end
  if key ~= NO_KEY and redis.call('HSETNX', p .. ':event_ids', key, at) == 0 then
    result[i] = -1
  else
    next_position = at + 1
    appended_events = appended_events + 1
    result[i] = at
    local item_code, action_code = code_of('item', item), code_of('action', action)
    local block = block_of(at)
    redis.call('HSET', block_key(block), at, record)
    if redis.call('HLEN', block_key(block)) == 1 then redis.call('ZADD', p .. ':blocks', block, block) end
    add_row(user, struct.pack(ROW, time, appended, at, item_code, action_code, 0), time, appended, at)
  end
end
redis.call('HSET', meta, 'next_position', next_position)
redis.call('HINCRBY', meta, 'events', appended_events)
return result
"""
)

# ARGV: user, number of rows, then actions. Returns {head or '', last rows, action code or -1, ...}. A script, as a
# server out of memory refuses even reads inside MULTI.
LAST_ROWS = (
    _SHARED
    + """
local window = tonumber(ARGV[2]) * 32
local result = {redis.call('HGET', p .. ':users', ARGV[1]) or '',
                redis.call('GETRANGE', p .. ':h:' .. ARGV[1], -window, -1)}
for i = 3, #ARGV do
  result[i] = tonumber(redis.call('HGET', p .. ':actions', ARGV[i]) or '-1')
end
return result
"""
)

# ARGV[1]: user; ARGV[2]: remove the events before this time (ms). Returns {events, item ids} removed.
REMOVE = (
    _SHARED
    + """
local function release(kind, code)
  if redis.call('HINCRBY', p .. ':' .. kind .. '_uses', code, -1) > 0 then return 0 end
  redis.call('HDEL', p .. ':' .. kind .. 's', redis.call('HGET', p .. ':' .. kind .. '_ids', code))
  redis.call('HDEL', p .. ':' .. kind .. '_ids', code)
  redis.call('HDEL', p .. ':' .. kind .. '_uses', code)
  return 1
end

local function remove_record(position)
  local key = block_key(block_of(position))
  local event_key = string.sub(redis.call('HGET', key, position), 1, 16)
  if event_key ~= NO_KEY then redis.call('HDEL', p .. ':event_ids', event_key) end
  redis.call('HDEL', key, position)
  if redis.call('EXISTS', key) == 0 then redis.call('ZREM', p .. ':blocks', block_of(position)) end
end

local user, before = ARGV[1], tonumber(ARGV[2])
local key = p .. ':h:' .. user
local rows = redis.call('GET', key)
if not rows then return {0, 0} end
local total, removed, items = #rows / 32, 0, 0
while removed < total do
  local time, _, position, item, action = struct.unpack(ROW, rows, removed * 32 + 1)
  if time >= before then break end
  remove_record(position)
  items = items + release('item', item)
  release('action', action)
  removed = removed + 1
end
if removed == 0 then return {0, 0} end
redis.call('HINCRBY', meta, 'events', -removed)
redis.call('HINCRBY', meta, 'generation', 1)
if removed == total then
  redis.call('DEL', key)
  redis.call('HDEL', p .. ':users', user)
  return {removed, items}
end
local rest, newest_position = string.sub(rows, removed * 32 + 1), -1
for row = 0, #rest / 32 - 1 do
  local _, _, position = struct.unpack(ROW, rest, row * 32 + 1)
  newest_position = math.max(newest_position, position)
end
local _, _, _, _, last, newest = struct.unpack(HEAD, redis.call('HGET', p .. ':users', user))
local first = struct.unpack('<i8', rest)
local epoch = redis.call('HINCRBY', meta, 'next_epoch', 1)
redis.call('SET', key, rest)
redis.call('HSET', p .. ':users', user, struct.pack(HEAD, total - removed, newest_position, epoch, first, last, newest))
return {removed, items}
"""
)

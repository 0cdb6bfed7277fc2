-- Removes from a lane what every group has acknowledged. Without groups nothing goes: whoever the
-- entries are for has not come yet.
--
-- KEYS: the lane's stream. Answers how many entries went.
local function before(one, other)
  local one_ms, one_n = one:match('^(%d+)-(%d+)$')
  local other_ms, other_n = other:match('^(%d+)-(%d+)$')
  one_ms, other_ms = tonumber(one_ms), tonumber(other_ms)
  return one_ms < other_ms or (one_ms == other_ms and tonumber(one_n) < tonumber(other_n))
end

local keep_from = nil
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for at = 1, #flat, 2 do
    group[flat[at]] = flat[at + 1]
  end
  local first = group['last-delivered-id']
  if group['pending'] > 0 then
    first = redis.call('XPENDING', KEYS[1], group['name'])[2]
  end
  if keep_from == nil or before(first, keep_from) then
    keep_from = first
  end
end
return keep_from and redis.call('XTRIM', KEYS[1], 'MINID', keep_from) or 0

-- What the menu of a FineTuneJob offers.

local suspended = obj.spec.suspend == true

return {
  ["suspend"] = { ["disabled"] = suspended },
  ["resume"] = { ["disabled"] = not suspended },
}

"""The merge compared with a copy and with PEFT, in processes of their own."""
